"""All of `vlv eval pairs` in one folder: captions by models, their losses, the result, the page.

The folder holds `captions/NAME.jsonl` of each model with its sidecar and, of a model of ours,
`captions/NAME.loss.jsonl`; then `result.json` and `pairs.html`. A run that is killed continues from
these files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlv.errors import ConfigError
from vlv.evaluation.metrics.clip_score import CLIPScore
from vlv.evaluation.metrics.statistics import Ratio
from vlv.evaluation.real.caption_run import (
    caption_here,
    check_sidecar,
    complete_sidecar,
    totals_of,
)
from vlv.evaluation.real.captioners import Generation, VLVCaptioner, open_captioner
from vlv.evaluation.real.captions_file import (
    CaptionLine,
    appended_lines,
    read_captions,
    without_caption,
)
from vlv.evaluation.real.pairs import (
    Captions,
    Pairs,
    Watch,
    common,
    decodable,
    measure,
    read_pairs,
)
from vlv.evaluation.real.pairs_page import pairs_page
from vlv.evaluation.real.reference_loss import reference_loss
from vlv.evaluation.results import Result, to_json
from vlv.files import sha256_of, write_json, write_text
from vlv.text import counted, plain_name, printable

RESULT, PAGE, CAPTIONS = "result.json", "pairs.html", "captions"


@dataclass(frozen=True)
class PairsSettings:
    """What is measured. models and captions: name -> id or folder, and name -> captions file, in
    the order of the table: models first. clip: id or folder of a CLIP.
    """

    source: Path
    out: Path
    models: Mapping[str, str]
    captions: Mapping[str, Path]
    clip: str | None = None
    limit: int | None = None
    generation: Generation = field(default_factory=Generation)
    batch_size: int = 8
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class MeasuredPairs:
    """The result, and what it leaves out: images with the reasons."""

    result: Result
    left_out: dict[str, str]


def measure_pairs(settings: PairsSettings, watch: Watch) -> MeasuredPairs:
    """Caption, compare, and write the folder.

    Raises:
        ConfigError: nothing is to be measured; the folder holds captions by another model or of
            another set.
        DatasetError: the set or a captions file cannot be read, or they have no image in common.
        CheckpointError: a model or the CLIP cannot be opened.
    """
    if not settings.models and not settings.captions:
        raise ConfigError("name what to measure: --model, or --captions NAME=FILE")
    settings.out.mkdir(parents=True, exist_ok=True)
    # Read and opened first: what is missing is reported before the work.
    files = {name: read_captions(path) for name, path in settings.captions.items()}
    pairs = read_pairs(settings.source, settings.out / "index", settings.limit, watch)
    clip = CLIPScore(settings.clip, settings.device) if settings.clip else None
    pairs = decodable(pairs, watch) if clip or settings.models else pairs
    made: dict[str, Mapping[str, CaptionLine]] = {}
    losses: dict[str, Ratio | None] = {}
    provenance = {}
    for name, model in settings.models.items():
        made[name], losses[name], provenance[name] = _of_model(settings, name, model, pairs, watch)
    kept, texts, missing = common(pairs, made | files)
    where = {name: at for at, name in enumerate(pairs.names)}
    places = [where[name] for name in kept.names]
    captioners = [
        Captions(name, texts[name], _of_places(losses.get(name), places)) for name in texts
    ]
    result, scored = measure(
        kept, captioners, clip=clip, seed=settings.generation.seed, watch=watch
    )
    result = replace(
        result,
        notes=[*result.notes, *_left_out_notes(pairs, missing)],
        provenance={
            **result.provenance,
            "source": str(settings.source),
            "set": pairs.images.fingerprint,
            "limit": settings.limit,
            "models": provenance,
            "captions": {
                name: {"file": str(path), "sha256": sha256_of(path)}
                for name, path in settings.captions.items()
            },
            "clip": clip.about if clip else None,
            "seed": settings.generation.seed,
        },
    )
    write_json(settings.out / RESULT, to_json(result))
    write_text(settings.out / PAGE, pairs_page(result, kept, scored, seed=settings.generation.seed))
    return MeasuredPairs(result, _left_out(pairs, missing))


def _of_model(
    settings: PairsSettings, name: str, model: str, pairs: Pairs, watch: Watch
) -> tuple[dict[str, CaptionLine], Ratio | None, dict[str, object]]:
    captioner = open_captioner(
        model, settings.generation, device=settings.device, dtype=settings.dtype
    )
    path = settings.out / CAPTIONS / f"{plain_name(name)}.jsonl"
    wanted = set(pairs.names)
    with appended_lines(path) as file:
        check_sidecar(path, captioner.about, settings.source)
        items = (
            (name, sample)
            for number, name in zip(pairs.numbers, pairs.names, strict=True)
            for sample in [pairs.images[number]]
        )
        run = caption_here(captioner, items, file, batch_size=settings.batch_size, watch=watch)
        complete_sidecar(path, run, totals_of(file.records))
    loss = None
    if isinstance(captioner, VLVCaptioner):
        with appended_lines(path.with_suffix(".loss.jsonl")) as losses:
            loss = reference_loss(captioner.model, pairs, losses, watch)
    lines = {one: line for one, line in read_captions(path).items() if one in wanted}
    return lines, loss, captioner.about


def _of_places(loss: Ratio | None, places: Sequence[int]) -> Ratio | None:
    return None if loss is None else Ratio(loss.over[places], loss.under[places])


def _left_out(pairs: Pairs, missing: Mapping[str, Sequence[str]]) -> dict[str, str]:
    reasons = {
        name: reason if name in reason else f"{name}: {reason}"
        for name, reason in pairs.refused.items()
    }
    for captioner, names in missing.items():
        for name in names:
            reasons[name] = without_caption(name, [captioner])
    return reasons


def _left_out_notes(pairs: Pairs, missing: Mapping[str, Sequence[str]]) -> list[str]:
    notes = []
    if pairs.without:
        notes.append(
            f"Left out: {counted(len(pairs.without), 'image')} without a caption to compare with."
        )
    if pairs.refused:
        notes.append(f"Left out: {counted(len(pairs.refused), 'image')} that cannot be read.")
    notes += [
        f"Left out of all rows: {counted(len(names), 'image')} without a caption by "
        f"{printable(name)}."
        for name, names in missing.items()
        if names
    ]
    return notes
