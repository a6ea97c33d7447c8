"""All of `vlv eval verify SET` in one folder: marks of labelled sentences, the result, the page.

The folder holds `marks.jsonl` with a sidecar that says whose marks they are; then `result.json` and
`marks.html`. A run that is killed continues from the marks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlv.checkpoints.hub import snapshot_commit
from vlv.errors import CheckpointError
from vlv.evaluation.real.caption_run import check_sidecar
from vlv.evaluation.real.captions_file import appended_lines
from vlv.evaluation.real.pairs import Watch
from vlv.evaluation.real.sentence_labels import Labels, read_labels
from vlv.evaluation.real.sentence_marks import KEY, mark_captions
from vlv.evaluation.real.sentence_page import sentence_page
from vlv.evaluation.real.sentence_result import sentence_result
from vlv.evaluation.results import CHECKS, Result, environment, folder_hash, opened_hash, to_json
from vlv.files import sha256_of, write_json, write_text
from vlv.inference.verification import require_parts
from vlv.models.vlv import VLVModel
from vlv.verification.verifier import verifier_of

MARKS, RESULT, PAGE = "marks.jsonl", "result.json", "marks.html"


@dataclass(frozen=True)
class MarksSettings:
    """What is measured. limit: of the labelled images. others: captions that are judged at another
    image too. false_alarm_rate: of the verifier's own marks.
    """

    source: Path
    labels: Path
    out: Path
    limit: int | None = None
    others: int = 50
    false_alarm_rate: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class MeasuredMarks:
    """The result, and what it leaves out, by name with the reason."""

    result: Result
    left_out: dict[str, str]


def measure_marks(
    settings: MarksSettings, model: VLVModel, name: str, watch: Watch
) -> MeasuredMarks:
    """Judge what the folder lacks, and write the result and its page. name: of the model.

    Raises:
        CheckpointError: the model has no decoder or no verifier.
        ConfigError: the folder holds marks by another model or of another set.
        DatasetError: the set or the labels cannot be read, or have no labelled sentence in common.
    """
    labels = read_labels(settings.labels)
    require_parts(model, marks=True)
    verifier = verifier_of(model)
    if verifier is None:
        raise CheckpointError("this model has no verifier; `vlv verifier` adds one")
    about = _about(model, name)
    path = settings.out / MARKS
    with appended_lines(path, KEY) as file:
        check_sidecar(path, about, settings.source)
        marked = mark_captions(
            model,
            verifier,
            settings.source,
            labels,
            file,
            limit=settings.limit,
            others=settings.others,
            watch=watch,
        )
    result = sentence_result(
        marked.records,
        false_alarm_rate=settings.false_alarm_rate,
        seed=settings.seed,
        provenance=_provenance(settings, about),
        more_notes=_notes(labels),
    )
    page = sentence_page(
        result,
        marked.records,
        settings.source,
        false_alarm_rate=settings.false_alarm_rate,
        seed=settings.seed,
    )
    write_json(settings.out / RESULT, to_json(result))
    write_text(settings.out / PAGE, page)
    empty = {where.partition(":")[0]: where for where in labels.without_words}
    return MeasuredMarks(result, {**marked.left_out, **empty})


def _about(model: VLVModel, name: str) -> dict[str, Any]:
    assert model.folder is not None and model.opened_from is not None
    return {
        "captioner": name,
        "revision": snapshot_commit(model.opened_from),
        "sha256": opened_hash(model),
        "checks_sha256": folder_hash(model.folder, CHECKS),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _provenance(settings: MarksSettings, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": dict(about),
        "set": str(settings.source),
        "labels": str(settings.labels),
        "labels_sha256": sha256_of(settings.labels),
        "limit": settings.limit,
        "others": settings.others,
        "false_alarm_rate": settings.false_alarm_rate,
        "seed": settings.seed,
        "environment": environment(),
    }


def _notes(labels: Labels) -> list[str]:
    notes = []
    if labels.unlabelled:
        notes.append(
            "Sentences that count for nothing, since they make no claim or raters are even: "
            f"{labels.unlabelled:,}."
        )
    if labels.without_words:
        notes.append(f"Lines of the labels with empty sentences: {len(labels.without_words):,}.")
    return notes
