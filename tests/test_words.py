"""One vocabulary: the words that the project does not use, in code, documentation and messages."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What is said instead -> what is not said. Documentation names the deprecated field `familiar` of
# the HTTP API.
BANNED = {
    "frozen": r"\bat rest\b",
    "supported": r"\b(bears?|borne|bore) (it |them )?out\b",
    "out-of-distribution (OOD) detector": r"(?<!`)familiar",
    "self-training": r"\bself[-_ ]?teach|\bteaches (itself|itselves)\b",
    "pseudo-captions": r"\blessons?\b",
    "selector": r"\bchoosing\b",
    "denoising score, scorer": r"\b[Ww]itness(es)?\b|\bdoubt(s|ful)?\b",
    "image sampler": r"\b[Pp]ainters?\b",
    "thresholds": r"\bmini_floors\b|\bclass Floors?\b",
    "cancellation": r"\bleaving\b",
    "cooperative steps": r"\bslices\.py\b|\bSliced\b",
    "admission": r"\bGate\b|\bgate\.py\b",
    "request context": r"\b[Vv]isit\b",
    "relations": r"\bremarks\b",
    "lexicon": r"\bwordings?\b",
    "caption counts": r"\btally\b",
    "condition, variant": r"\bARMS\b|\barms?\b",
    "caption decoder": r"(model|self|vlv|stage)\.captioner\b|\bcaptioner=",
    "unconfirmed": r"\bdid not come out\b|\bnot[ _-]confirmed\b",
    "reported, recorded, written": r"\btold\b",
}
# Old names that still work, and the history of the project.
ALLOWED = {
    "src/vlv/cli/renamed.py",
    "src/vlv/training/old_names.py",
    "src/vlv/checkpoints/boxes.py",
    "src/vlv/models/config.py",
    "src/vlv/inference/bulk/report.py",
    "CHANGELOG.md",
    "docs/lab_log.md",
    "benchmarks/unchanged_runs.yaml",
    "src/vlv/serving/api/schemas.py",
    "src/vlv/serving/api/routes.py",
    "src/vlv/evaluation/registry.py",
    "src/vlv/verification/verifier.py",
}
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".html", ".js", ".css", ".j2", ".cff"}


def texts() -> Iterator[Path]:
    for place in ("src", "docs", "configs", "benchmarks", "README.md", "CONTRIBUTING.md"):
        path = ROOT / place
        for file in sorted([path] if path.is_file() else path.rglob("*")):
            name = file.relative_to(ROOT).as_posix()
            if file.suffix in SUFFIXES and name not in ALLOWED:
                yield file


@pytest.mark.parametrize("word", BANNED)
def test_what_is_not_said(word: str) -> None:
    pattern = re.compile(BANNED[word])
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for file in texts()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, f"say {word}:\n" + "\n".join(found)


def test_modules_are_not_called_by_old_words() -> None:
    names = {file.stem for file in (ROOT / "src" / "vlv").rglob("*.py")}
    old = {"alone", "figures", "order", "lesson", "choosing", "familiarity"}
    old |= {"conditions", "floors", "leaving", "slices", "gate", "bodies", "visit", "remarks"}
    old |= {"wording", "tally", "support", "witness", "painter", "self_teaching", "self_teach"}
    assert not names & old
