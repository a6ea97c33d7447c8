"""One vocabulary: the words that the project does not use, in code, documentation and messages."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What is said instead -> what is not said, in lines as `plain` makes them: `SkipUnfamiliar`,
# `skip_unfamiliar` and `--skip-unfamiliar` are all "skip unfamiliar".
BANNED = {
    "frozen": r"at rest",
    "supported": r"(bears?|bore|borne|bearing)( \w+)? out",
    "out-of-distribution (OOD) detector": r"(un)?familiar(ity|ly)?",
    "self-training": r"self teach(es|ing|er)?|teach(es|ing)? (itself|themselves)",
    "pseudo-captions": r"lessons?",
    "selector": r"choosing",
    "denoising score, scorer": r"(eye)?witness(es|ed)?|doubt(s|ed|ful)?",
    "image sampler": r"painters?",
    "thresholds": r"mini floors?",
    "cancellation": r"leaving",
    "cooperative steps": r"sliced",
    "request context": r"visit(s|ed|ing)?",
    "relations": r"remark(s|ed)?",
    "lexicon": r"wordings?",
    "caption counts": r"tall(y|ies|ied)",
    "condition, variant": r"arms?",
    "caption decoder": r"(model|self|vlv|stage) dot captioner",
    "unconfirmed": r"(did|does|do) not come out|not confirmed",
    "reported, recorded, written": r"told",
}
# Old names that still work, what was recorded under them, and the history of the project.
ALLOWED = {
    "CHANGELOG.md",
    "benchmarks/unchanged_runs.yaml",
    "docs/eval_mini.json",
    "docs/eval_mini_unseen_counts.json",
    "docs/eval_mini_unseen_pairs.json",
    "docs/lab_log.md",
    "docs/reproduction/results/mini.json",
    "src/vlv/checkpoints/boxes.py",
    "src/vlv/cli/renamed.py",
    "src/vlv/evaluation/registry.py",
    "src/vlv/inference/bulk/report.py",
    "src/vlv/models/config.py",
    "src/vlv/serving/api/routes.py",
    "src/vlv/serving/api/schemas.py",
    "src/vlv/training/old_names.py",
    "src/vlv/verification/verifier.py",
    "src/vlv/weights/mini/verifier/vlv_verifier.json",
    "src/vlv/weights/mini/vlv.json",
    "tests/cli/test_renamed.py",
    "tests/evaluation/test_registry.py",
    "tests/test_words.py",
    "tests/training/test_old_names.py",
    "tests/training/test_self_training.py",
}
# The deprecated field of the HTTP API; the maker of processors; pictures inside a page.
ALLOWED_WORDS = r"`familiar`|\[\"familiar\"\]|\bARM\b|self\._captioner|;base64,\S+"
PLACES = (".ci", ".github", "benchmarks", "configs", "deploy", "docs", "src", "tests")
SUFFIXES = "cff css html ipynb j2 js json jsonl md py sh svg toml txt yaml yml"
# Modules and classes are not called by these, whatever else they mean.
OLD_NAMES = (
    "alone bodies choosing conditions doubt familiarity figures floors gate leaving lesson order "
    "painter remarks slices support tally visit witness wording"
)


def texts() -> Iterator[Path]:
    for path in [*ROOT.iterdir(), *(one for place in PLACES for one in (ROOT / place).rglob("*"))]:
        known = path.suffix.removeprefix(".") in SUFFIXES.split() or path.parent.name == ".ci"
        if path.is_file() and known and path.relative_to(ROOT).as_posix() not in ALLOWED:
            yield path


def plain(text: str) -> str:
    """Words in lower case with a space between them: of names too, whatever joins them there."""
    text = re.sub(ALLOWED_WORDS, " ", text)
    text = re.sub(r"(?<=\w)\.(?=\w)", " dot ", text)
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return re.sub(r"[\W_]+", " ", text.replace("’s", "").replace("'s", "")).lower()


@cache
def lines() -> list[tuple[str, str, str]]:
    """(place, line, the same in plain words) of all texts."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", line.strip()[:120], f" {plain(line)} ")
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    ]


def said(pattern: str, line: str) -> bool:
    return re.search(rf"(?<= )({pattern})(?= )", line) is not None


@pytest.mark.parametrize("word", BANNED)
def test_what_is_not_said(word: str) -> None:
    found = [f"{place}: {line}" for place, line, words in lines() if said(BANNED[word], words)]
    assert not found, f"say {word}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("out-of-distribution (OOD) detector", '    "skip_unfamiliar": null,'),
        ("self-training", "class SelfTeachConfig(BaseModel):"),
        ("supported", "The image bears it out."),
        ("caption counts", "const captionTallies = new Map();"),
        ("condition, variant", "for arm_name in ARMS:"),
        ("caption decoder", "    return vlv.captioner(c)"),
        ("cooperative steps", "class SlicedSearch:"),
        ("reported, recorded, written", "--told=yes"),
        ("unconfirmed", '<td class="not-confirmed">'),
    ],
)
def test_compounds_plurals_and_keys_are_found(word: str, line: str) -> None:
    assert said(BANNED[word], f" {plain(line)} ")


def test_words_that_only_hold_a_banned_one_are_none() -> None:
    line = f" {plain('an alarm in a stolen harmony, undoubtedly; tallow and totaldoubts')} "
    assert not any(said(pattern, line) for pattern in BANNED.values())


def test_modules_and_classes_are_not_called_by_old_words() -> None:
    files = [*(ROOT / "src" / "vlv").rglob("*.py")]
    classes = {
        name.lower()
        for file in files
        for name in re.findall(r"^class (\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    assert not ({file.stem for file in files} | classes) & {*OLD_NAMES.split()}
