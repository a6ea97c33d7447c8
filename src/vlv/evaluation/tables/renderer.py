"""`vlv eval renderer`: verification on pictures of a renderer that no training has seen.

The same held-out scenes are drawn by the training's renderer and by another one, in several
styles (`vlv.world.other_render`). Measured for each: how well wrong sentences are separated from
true ones, what the out-of-distribution checks say of the pictures, the false alarms of the model's
own marks, and those of marks whose threshold was fitted again on the other pictures of that
style.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from vlv.errors import ConfigError
from vlv.evaluation.bench import Bench, TableConfig
from vlv.evaluation.metrics.detection import Scored, auroc_figure, auroc_statistic
from vlv.evaluation.metrics.statistics import Bootstrap, Figure, Ratio, mean_of
from vlv.evaluation.results import (
    CHECKS,
    Claim,
    Progress,
    Result,
    Row,
    folder_hash,
    opened_hash,
    silent,
)
from vlv.evaluation.tables.verify import OWN
from vlv.inference.verification import require_parts
from vlv.training.verifier import planted_captions, sampled_captions, sentence_truths
from vlv.verification.calibration import Calibration
from vlv.verification.evidence import sentence_evidence
from vlv.verification.scorer import DenoisingScorer
from vlv.verification.verifier import Verifier, verifier_of
from vlv.world.counterfactual import ERRORS
from vlv.world.other_render import STYLES, render_in_style
from vlv.world.render import render
from vlv.world.scene import Scene

TRAINED = "the renderer of training"
ALL = "all"
# Of what is above chance, the share that should stay in the style with all changes.
_STAYS = 0.75
# How a line of the records begins.
_RECORD = '{"run": '


class RendererConfig(TableConfig):
    """styles: of `vlv.world.other_render`, besides the training's renderer. planted: errors planted
    in each scene, of the kinds `vlv eval verify` plants, in turn. false_alarm_rate: of the marks.
    records: a file for what is measured of each picture; a run that was stopped goes on from it.
    """

    count: int = Field(100, ge=2)
    styles: tuple[str, ...] = Field(tuple(STYLES), min_length=1)
    planted: int = Field(2, ge=1, le=len(ERRORS))
    false_alarm_rate: float = Field(0.05, ge=0, le=1)
    records: Path | None = None

    @field_validator("styles")
    @classmethod
    def _known(cls, styles: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(styles) - set(STYLES):
            raise ValueError(f"no such style: {sorted(unknown)}; there are {', '.join(STYLES)}")
        return styles


@dataclass(frozen=True)
class Sentence:
    """kind: of the caption that it stands in. gain: the evidence against it."""

    kind: str
    true: bool
    gain: float


@dataclass(frozen=True)
class Picture:
    """What is measured of one scene in one style.

    in_distribution: says the OOD detector. drawable: the decoder's own error is within its bound.
    """

    style: str
    scene: int
    in_distribution: bool
    drawable: bool
    sentences: tuple[Sentence, ...]


def evaluate(config: RendererConfig, progress: Progress = silent) -> Result:
    """AUROC, checks and false alarms by style, and AUROC by kind of error and style.

    Raises:
        CheckpointError, ConfigError: the model cannot be opened, has no verifier or no OOD
            detector, or the records are of another run.
    """
    bench = Bench(config, progress)
    require_parts(bench.model, marks=True)
    verifier = verifier_of(bench.model)
    assert verifier is not None  # required
    if bench.model.ood_detector is None:
        raise ConfigError(f"{config.model} has no OOD detector; fit one with `vlv ood-detector`")
    styles = (TRAINED, *config.styles)
    measured = _measured(bench, verifier, config, styles)
    found = {style: [measured[style, at] for at in range(config.count)] for style in styles}
    rows = [_style_row(style, pictures, verifier, config) for style, pictures in found.items()]
    rows += [_kind_row(kind, found, config.seed) for kind in (OWN, *ERRORS)]
    return Result(
        name="renderer",
        title="Verification on pictures of another renderer",
        paper="none: beyond the paper",
        rows=[row for row in rows if row.count],
        claims=[_stays(found, config.seed)] if ALL in found else [],
        notes=[
            "AUROC: the chance that a false sentence has a higher score than a true one, over the "
            "captions that the model samples and those with a planted error; by kind: false "
            "sentences of these captions against the true ones of all captions of the style.",
            "Recalibrated: the threshold for each picture is fitted on the true sentences of the "
            f"other {config.count - 1} pictures of its style.",
            "Found and false alarms are of all pictures, judged or not. Judged: the share of "
            "pictures that both checks pass.",
        ],
        provenance={
            **bench.provenance("renderer"),
            "checks_sha256": folder_hash(bench.model_folder, CHECKS),
        },
    )


def _measured(
    bench: Bench, verifier: Verifier, config: RendererConfig, styles: Sequence[str]
) -> dict[tuple[str, int], Picture]:
    """All pictures, those of the records included."""
    run = {
        "model": opened_hash(bench.model, folder_hash),
        **config.model_dump(include={"seed", "split", "planted"}),
    }
    measured = {(one.style, one.scene): one for one in _read(config.records, run)}
    # Scene by scene, so that what a stopped run leaves is of all styles alike.
    wanted = [(style, at) for at in range(config.count) for style in styles]
    missing = [place for place in wanted if place not in measured]
    for style, at in bench.progress(
        missing, total=len(missing), unit="picture", description="renderer"
    ):
        picture = _measure(bench, verifier, style, at, config)
        measured[style, at] = picture
        if config.records is not None:
            with config.records.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": run, "picture": asdict(picture)}) + "\n")
    return measured


def _read(records: Path | None, run: dict[str, object]) -> Iterable[Picture]:
    if records is None:
        return
    records.parent.mkdir(parents=True, exist_ok=True)
    if not records.exists():
        return
    try:
        text = records.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{records} is no file of records ({error})") from error
    whole = text[: text.rfind("\n") + 1]
    torn = text[len(whole) :]  # what a killed run left of its last line
    if not (torn.startswith(_RECORD) or _RECORD.startswith(torn)):
        raise ConfigError(f"{records} does not end as a file of records; give another file")
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
            if entry["run"] != run:
                raise ConfigError(
                    f"{records}, line {number}: this was measured with another model, seed or "
                    "number of errors; give another file of records"
                )
            picture = entry["picture"]
            sentences = tuple(Sentence(**one) for one in picture.pop("sentences"))
            yield Picture(**picture, sentences=sentences)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{records}, line {number}: no record of this table ({error!r}); give another file"
            ) from error
    if torn:
        records.write_text(whole, "utf-8")


def drawn(scene: Scene, style: str, seed: int) -> Image.Image:
    """A scene by the renderer of training or in a style of the other one."""
    if style == TRAINED:
        return Image.fromarray(render(scene))
    return Image.fromarray(render_in_style(scene, STYLES[style], seed))


def _measure(
    bench: Bench, verifier: Verifier, style: str, at: int, config: RendererConfig
) -> Picture:
    scene = bench.data.scenes[at]
    image = drawn(scene, style, config.seed + at)
    z, (in_distribution,) = bench.model.encode_and_detect(image)
    scorer = DenoisingScorer(bench.model, image, verifier.settings.verify, z=z)
    bound = verifier.settings.own_error
    captions = {OWN: sampled_captions(bench.model, z, config.seed + at)[0]}
    captions |= planted_captions(scene, at, config.planted, ERRORS, config.seed)
    sentences = [
        Sentence(kind, true, one.gain)
        for kind, caption in captions.items()
        for one, true in zip(
            sentence_evidence(
                bench.model,
                image,
                caption,
                verifier.references.to(z),
                verifier.settings.verify,
                z=z,
                scorer=scorer,
            ),
            sentence_truths(caption, scene),
            strict=True,
        )
    ]
    drawable = bound is None or scorer.own_error() <= bound
    return Picture(style, at, bool(in_distribution), drawable, tuple(sentences))


def _style_row(
    style: str, pictures: Sequence[Picture], verifier: Verifier, config: RendererConfig
) -> Row:
    rate = config.false_alarm_rate
    ours = [[verifier.alarm_rate(s.gain) <= rate for s in one.sentences] for one in pictures]
    fitted = _recalibrated(pictures, rate)
    bootstrap = Bootstrap(len(pictures), config.seed)

    def share(flags: Sequence[Sequence[bool]], of_true: bool) -> Figure:
        kept = [
            [flag for flag, s in zip(many, one.sentences, strict=True) if s.true == of_true]
            for many, one in zip(flags, pictures, strict=True)
        ]
        sums = [np.array([f(many) for many in kept], float) for f in (sum, len)]
        return bootstrap.share(Ratio(*sums))

    def passed(flags: Iterable[bool]) -> Figure:
        return bootstrap.share(mean_of(flags))

    return Row(
        {"part": "styles", "what": style},
        len(pictures),
        {
            "auroc": _auroc(pictures, config.seed),
            "detected": share(ours, False),
            "false_alarms": share(ours, True),
            "detected_recalibrated": share(fitted, False),
            "false_alarms_recalibrated": share(fitted, True),
            "in_distribution": passed(one.in_distribution for one in pictures),
            "drawable": passed(one.drawable for one in pictures),
            "judged": passed(one.in_distribution and one.drawable for one in pictures),
        },
    )


def _recalibrated(pictures: Sequence[Picture], rate: float) -> list[list[bool]]:
    """Whether each sentence is marked by a threshold from the pictures of the other scenes."""
    true_gains = [[s.gain for s in one.sentences if s.true] for one in pictures]
    flags = []
    for at, one in enumerate(pictures):
        calibration = Calibration.of([gains for i, gains in enumerate(true_gains) if i != at])
        flags.append([calibration.alarm_rate(s.gain) <= rate for s in one.sentences])
    return flags


def _kind_row(kind: str, found: dict[str, list[Picture]], seed: int) -> Row:
    figures = {f"auroc, {style}": _auroc(pictures, seed, kind) for style, pictures in found.items()}
    count = sum(
        not s.true and s.kind == kind for one in next(iter(found.values())) for s in one.sentences
    )
    return Row({"part": "kinds of errors", "what": kind}, count, figures)


def _auroc(pictures: Sequence[Picture], seed: int, kind: str | None = None) -> Figure:
    return auroc_figure(Bootstrap(len(pictures), seed), _scored(pictures, kind))


def _scored(pictures: Sequence[Picture], kind: str | None = None) -> Scored:
    """kind: of the captions whose false sentences count; None is all."""
    kept = [
        (sentence, at)
        for at, one in enumerate(pictures)
        for sentence in one.sentences
        if sentence.true or kind in (None, sentence.kind)
    ]
    return (
        [sentence.gain for sentence, _ in kept],
        [not sentence.true for sentence, _ in kept],
        [at for _, at in kept],
    )


def _stays(found: dict[str, list[Picture]], seed: int) -> Claim:
    before, after = (auroc_statistic(_scored(found[style])) for style in (TRAINED, ALL))
    return Claim(
        f"Of the AUROC above chance at least {_STAYS:.0%} stays where the other renderer changes "
        "camera, light, floor, noise and compression at once.",
        "not in the paper",
        f"AUROC above chance on “{ALL}”, minus {_STAYS} of that on the renderer of training",
        Bootstrap(len(found[ALL]), seed).of(
            lambda weights: after(weights) - 0.5 - _STAYS * (before(weights) - 0.5)
        ),
    )
