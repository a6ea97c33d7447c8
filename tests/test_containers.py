"""The files that make images and start them agree with each other and with the project."""

import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.test_docs import parse

ROOT = Path(__file__).resolve().parents[1]
KEY_FILE = "/run/secrets/vlv-api-key"
TARGETS = ("cpu", "cuda")


def instructions() -> dict[str, list[tuple[str, str]]]:
    """(instruction, rest) of each stage of the Dockerfile, those of what it is built on first."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stages: dict[str, list[tuple[str, str]]] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            parent, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            stages[name] = list(stages.get(parent, []))
        else:
            stages[name].append((word, rest))
    return stages


def last(stage: str, word: str) -> str:
    return [rest for found, rest in instructions()[stage] if found == word][-1]


def copied(stage: str) -> list[str]:
    """What the stage copies out of the clone."""
    lines = [rest for word, rest in instructions()[stage] if word == "COPY"]
    return [name for line in lines if "--from" not in line for name in line.split()[:-1]]


def ignored(path: str) -> bool:
    """By .dockerignore: the last line that fits counts."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            parts = [path, *map(str, Path(path).parents)][:-1]
            if any(fnmatch(part, pattern.replace("**/", "*")) for part in parts):
                verdict = not line.startswith("!")
    return verdict


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / name).read_text())
    return found


SERVICE = compose()["services"]["vlv"]
PROMETHEUS = compose()["services"]["prometheus"]


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_build_copies_is_there_and_is_all_that_it_needs(target: str) -> None:
    names = copied(f"build-{target}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        "constraints.txt",
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *wheel["force-include"],
        *(package.split("/")[0] for package in wheel["packages"]),
    }
    assert set(names) == needed
    for name in names:
        assert (ROOT / name).exists()
        assert not ignored(name)
    assert not ignored("src/vlv/weights/mini/unet/config.json")


@pytest.mark.parametrize("name", [".git", "tests/conftest.py", "deploy/secrets/api-key", "runs/a"])
def test_nothing_else_goes_to_the_builder(name: str) -> None:
    assert ignored(name)
    assert ignored("src/vlv/__pycache__")


@pytest.mark.parametrize("target", TARGETS)
def test_the_project_is_installed_with_pinned_versions_and_extras_that_exist(target: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commands = [rest for word, rest in instructions()[f"build-{target}"] if word == "RUN"]
    installs = [shlex.split(one) for one in commands if one.startswith("pip install")]
    assert all(words[words.index("-c") + 1] == "constraints.txt" for words in installs)
    extras = re.fullmatch(r"\.\[(.*)\]", installs[-1][-1])
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert "serve" in extras[1]
    assert last(target, "COPY") == f"--from=build-{target} /opt/vlv /opt/vlv"


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_serves_with_a_key_and_not_as_root(target: str) -> None:
    user, _, group = last(target, "USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert json.loads(last(target, "ENTRYPOINT")) == ["vlv"]
    check_serving(json.loads(last(target, "CMD")), last(target, "EXPOSE"))


def test_compose_serves_as_the_image_does() -> None:
    check_serving(SERVICE["command"], last("cpu", "EXPOSE"))
    assert SERVICE["command"] == json.loads(last("cpu", "CMD"))
    assert SERVICE["ports"] == ["127.0.0.1:8000:8000"]
    assert normal(health_check(SERVICE["healthcheck"]["test"][1:])) == normal(image_health_check())
    seconds = int(SERVICE["stop_grace_period"].removesuffix("s"))
    assert seconds > 30, "longer than --drain-seconds"


def check_serving(command: list[str], port: str) -> None:
    parse(command)
    flags = dict(zip(command[1::2], command[2::2], strict=True))
    assert command[0] == "serve"
    assert flags == {"--host": "0.0.0.0", "--port": port, "--api-key-file": KEY_FILE}


@pytest.mark.parametrize("service", [SERVICE, PROMETHEUS], ids=["vlv", "prometheus"])
def test_services_may_do_nothing_that_they_need_not(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert [f"/run/secrets/{name}" for name in service["secrets"]] == [KEY_FILE]
    assert set(service["secrets"]) <= set(compose()["secrets"])
    named = {one.split(":")[0] for one in service["volumes"] if not one.startswith(".")}
    assert named <= set(compose()["volumes"])


def test_what_is_written_lies_on_volumes() -> None:
    assert last("cpu", "VOLUME") in [one.split(":")[1] for one in SERVICE["volumes"]]
    assert [one.split(":")[0] for one in SERVICE["tmpfs"]] == [last("cpu", "WORKDIR")] == ["/tmp"]


def test_prometheus_reads_the_metrics_with_the_key() -> None:
    settings = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    [job] = settings["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["authorization"] == {"type": "Bearer", "credentials_file": KEY_FILE}
    assert job["static_configs"] == [{"targets": [f"vlv:{last('cpu', 'EXPOSE')}"]}]
    config, rules = [one.split(":") for one in PROMETHEUS["volumes"] if one.startswith("./")]
    assert all((ROOT / "deploy" / file).is_file() for file in (config[0], rules[0]))
    assert f"--config.file={config[1]}" in PROMETHEUS["command"]
    assert settings["rule_files"] == [rules[1]]


def test_targets_of_compose_exist() -> None:
    for name in ("compose.yaml", "compose.cuda.yaml"):
        assert compose(name)["services"]["vlv"]["build"]["target"] in TARGETS
    known = [rest.partition("=")[0] for word, rest in instructions()["build-cpu"] if word == "ARG"]
    assert list(SERVICE["build"]["args"]) == known


def test_the_key_is_not_committed() -> None:
    file = compose()["secrets"]["vlv-api-key"]["file"]
    assert f"deploy/{Path(file).parent}/" in (ROOT / ".gitignore").read_text().splitlines()


def health_check(words: list[str]) -> str:
    assert words[:2] == ["python", "-c"]
    return words[2]


def image_health_check() -> str:
    return health_check(json.loads(last("cpu", "HEALTHCHECK").partition("CMD ")[2]))


def normal(code: str) -> list[str]:
    return code.split()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_tells_a_healthy_server(status: int | None, code: int) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" and status else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is reported."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        port = server.server_port
        if status is not None:
            threading.Thread(target=server.handle_request, daemon=True).start()
        else:
            server.server_close()
        check = image_health_check().replace("8000", str(port))
        ran = subprocess.run([sys.executable, "-c", check], capture_output=True)
        assert ran.returncode == code, ran.stderr
