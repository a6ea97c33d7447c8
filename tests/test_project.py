"""The files of an open project: they parse, and they agree with each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import vlv

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
YAML_FILES = [
    "CITATION.cff",
    ".pre-commit-config.yaml",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / ".github").rglob("*.yml"))),
]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


@pytest.mark.parametrize("name", YAML_FILES)
def test_yaml_files_parse(name: str) -> None:
    assert isinstance(read(name), dict)


def test_version_and_date_are_those_of_the_latest_changelog_entry() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version, date = re.findall(r"^## \[(\d\S*)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)[0]
    citation = read("CITATION.cff")
    assert version == vlv.__version__ == citation["version"]
    assert date == str(citation["date-released"])


def test_the_supported_version_is_the_current_one() -> None:
    minor = ".".join(vlv.__version__.split(".")[:2])
    assert f"| {minor}.x | yes |" in (ROOT / "SECURITY.md").read_text("utf-8")


def test_the_citation_names_the_paper() -> None:
    paper = read("CITATION.cff")["preferred-citation"]
    assert "2507.07104" in paper["url"]
    assert paper["authors"]


def test_classifiers_name_the_pythons_that_ci_tests() -> None:
    tested = (ROOT / ".python-version").read_text("utf-8").split()
    stem = "Programming Language :: Python :: "
    classified = [name.removeprefix(stem) for name in PROJECT["classifiers"] if stem in name]
    assert [name for name in classified if "." in name] == tested
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert job["container"].startswith(f"python:{tested[0]}-")
    assert {"run": ".ci/run"} in job["steps"]
