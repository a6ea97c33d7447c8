"""Requests made up from the OpenAPI description: no answer is a fault of the server."""

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from tests.serving.conftest import Server

TRUE = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def test_the_description_is_true(server: Server) -> None:
    description = httpx.get(f"{server.url}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    operations = [one.ok() for one in schema.get_all_operations()]
    assert {one.path for one in operations} == set(description["paths"])
    for found in operations:

        @settings(
            max_examples=10,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=found.as_strategy())
        def check(case: schemathesis.Case) -> None:
            answer = case.call(base_url=server.url, timeout=60)
            case.validate_response(answer, checks=TRUE)

        check()
