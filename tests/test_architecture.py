"""The rules that hold for the whole project: who imports whom, and what loads when."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vlv.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "diffusers", "accelerate", "numpy", "PIL", "pyarrow", "ray")


def test_rooms_import_only_what_they_may() -> None:
    # In a process of its own: it silences the loggers of the one that it runs in.
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    ran = subprocess.run(
        [*command, "--config", ROOT / "pyproject.toml"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout


def test_every_room_and_module_has_its_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [one["layers"] for one in contracts["contracts"] if one["type"] == "layers"]
    layered = {name for layer in layers for name in re.split(r" [|:] ", layer)}
    package = ROOT / "src" / "vlv"
    rooms = {f"vlv.{file.parent.name}" for file in package.glob("*/__init__.py")}
    files = {f"vlv.{file.stem}" for file in package.glob("*.py")} - {"vlv.__init__"}
    assert rooms | files == layered


def test_walks_of_the_architecture_are_short_and_true() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    walks = [(title, re.findall(r"^\d+\. `([^`]+)`", body, re.MULTILINE)) for title, body in walks]
    walks = [(title, files) for title, files in walks if files]
    assert len(walks) == 4
    for title, files in walks:
        assert 3 <= len(files) <= 12, title
        for file in files:
            assert (ROOT / "src" / "vlv" / file).is_file(), (title, file)


@pytest.mark.parametrize(
    "code",
    [
        "import vlv",
        "import vlv.cli",
        "from vlv.cli.app import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
        "\n".join(f"import {target.partition(':')[0]}" for target, _ in COMMANDS.values()),
    ],
)
def test_heavy_libraries_load_when_they_are_used(code: str) -> None:
    code += (
        f"\nimport sys\nprint('loaded:', *sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines()[-1] == "loaded:"


def test_constraints_pin_everything_that_is_required() -> None:
    def names(lines: list[str]) -> set[str]:
        found = (re.match(r"[A-Za-z0-9_.-]+", line) for line in lines if not line.startswith("#"))
        return {m.group().lower().replace("_", "-") for m in found if m} - {"vlv"}

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins if not pin.startswith("#"))
    assert set().union(*map(names, groups)) <= names(pins)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("assert True", pytest.ExitCode.OK),
        ("pytest.skip('no reason')", pytest.ExitCode.TESTS_FAILED),
        ("pytest.xfail('no reason')", pytest.ExitCode.TESTS_FAILED),
    ],
)
def test_a_run_that_skips_has_failed(tmp_path: Path, line: str, code: int) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(f"import pytest\n\ndef test_it():\n    {line}\n")
    command = [sys.executable, "-m", "pytest", "-q", str(tmp_path)]
    # Other plugins have no part in it, and take seconds to import.
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(command, capture_output=True, env=alone)
    assert ran.returncode == code
