"""Requests generated from the OpenAPI description: no answer is a server error, and none is
other than described. That what is described is accepted takes real work: it is nightly's.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.serving.conftest import KEY, Server


def test_the_description_is_true(server: Server) -> None:
    # Imported by the process that runs this test, of all that collect it.
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis import checks
    from schemathesis.specs.openapi.checks import negative_data_rejection

    true = [
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        negative_data_rejection,
    ]
    description = httpx.get(f"{server.url}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    operations = [one.ok() for one in schema.get_all_operations()]
    assert {one.path for one in operations} == set(description["paths"])
    for found in operations:

        @settings(
            max_examples=3,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=found.as_strategy())
        def check(case: schemathesis.Case) -> None:
            steps = case.body.get("num_inference_steps") if isinstance(case.body, dict) else None
            if isinstance(steps, int) and 4 < steps <= 1000:  # as good, and done sooner
                case.body["num_inference_steps"] = 4
            answer = case.call(base_url=server.url, timeout=60)
            case.validate_response(answer, checks=true)

        check()


def test_the_description_says_which_routes_need_a_key(server: Server, keyed: Server) -> None:
    described = keyed.client.get("/openapi.json").json()
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == (path not in ("/health", "/ready")), path
            assert "HTTPValidationError" not in str(operation)
    open_ = server.client.get("/openapi.json").json()
    assert "security" not in str(open_["paths"])


@pytest.mark.slow
def test_all_checks_of_schemathesis(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Every check of its command line, authentication and times among them, against a server with
    a key. Excluded is `positive_data_acceptance`, for which `fuzz_hooks` has a stricter reading:
    it lists what a schema cannot say.
    """
    server = serve("--api-key", KEY, "--timeout", "120", key=KEY)
    root = Path(__file__).parents[2]
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run"),
        *(f"{server.url}/openapi.json", "--url", server.url),
        *("--header", f"Authorization: Bearer {KEY}"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
        *("--max-response-time", "120", "--request-timeout", "150", "--max-examples", "20"),
        *("--phases", "coverage,fuzzing", "--continue-on-failure", "--generation-deterministic"),
        *("--suppress-health-check", "all"),
    ]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.serving.fuzz_hooks",
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3600
    )
    assert run.returncode == 0, run.stdout[-6000:]
    assert server.metric("vlv_worker_restarts_total") == 0
