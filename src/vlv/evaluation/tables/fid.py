"""`vlv eval fid`: how good captions are as prompts (the counterpart of the paper's Table 1).

The text tower encodes captions of several sources, and the mini's own decoder draws from them at
every guidance scale, with the same noise for the same scene. In the paper another text-to-image
model draws, and the Frechet distance is on features of Inception.

Drawing takes the time: the scenes times the guidance scales times four sources (five with
`direct_captions`), and the scenes once more for the empty caption, which guidance cannot change. At
the defaults that is 8,500 pictures, and scales above 1 run the U-Net twice a step.

Shapes: n scenes, F features of the inspector, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from vlv.errors import ConfigError, DatasetError
from vlv.evaluation.bench import Bench, TableConfig
from vlv.evaluation.caption_sources import first_sentence
from vlv.evaluation.metrics.columns import FRECHET_NOTE
from vlv.evaluation.metrics.frechet import RESAMPLES, Distance, FrechetBootstrap
from vlv.evaluation.metrics.pictures import inspector_features
from vlv.evaluation.metrics.statistics import (
    Array,
    Bootstrap,
    Figure,
    Ratio,
    mean_of,
)
from vlv.evaluation.results import Claim, Progress, Result, Row, silent
from vlv.models.text_tower import TextTower
from vlv.text import decode_text, parse_json

MODEL, TRUE, DIRECT = "model", "true", "direct captioner"
FIRST, SHUFFLED, EMPTY = "model, first sentence", "model, another scene", "empty"
# An F1 this far below that of the true captions still counts as on a par with them.
MARGIN = 0.02
# What the model's captions are compared with, and the paper's figures.
_COMPARISONS = (
    (
        FIRST,
        "Captions of several sentences draw the picture better than one sentence.",
        "Table 1 at guidance 2: VLV 6.64, COCO captions 9.90",
    ),
    (
        DIRECT,
        "The model's captions are better than those of a captioner without the text tower.",
        "Table 1 at guidance 2: VLV 6.64, Qwen2.5-VL-7B 6.98, Florence-2-L 7.51",
    ),
)


class FIDConfig(TableConfig):
    """guidance_scales: drawn at each. direct_captions: a metadata.jsonl of `vlv caption` for the
    folder that `vlv world render` writes for this count, seed and split, by a captioner that
    bypasses the text tower; None omits its rows.
    """

    guidance_scales: tuple[Annotated[float, Field(ge=1)], ...] = Field(
        (1.0, 2.0, 3.0, 4.0), min_length=1
    )
    direct_captions: Path | None = None


@dataclass(frozen=True)
class Cell:
    """One source at one guidance scale."""

    ratios: dict[str, Ratio]
    distance: Distance


def evaluate(config: FIDConfig, progress: Progress = silent) -> Result:
    """Draw every source at every scale, and measure.

    Raises:
        ConfigError: as `Bench`, or `direct_captions` lacks a scene.
        CheckpointError: the model is missing or damaged, or cannot caption or draw.
        DatasetError: `direct_captions` is damaged.
    """
    bench = Bench(config, progress)
    direct = None
    if config.direct_captions is not None:
        direct = read_captions(config.direct_captions, config.count)
    table = _Table(bench, config, sources(bench.data.captions, bench.captions, direct))
    notes = [
        "'true' is the world's short caption with every fact of the scene. Guidance cannot change "
        "'empty', which is drawn once. Captions are compared where the true ones' F1 is highest.",
        FRECHET_NOTE,
        "It compares sets: it does not see whether a picture shows its own scene; F1 does.",
        f"Intervals of Fréchet*: from {RESAMPLES} resamples of scenes, true and drawn alike. The "
        "distance is larger for fewer scenes, and a resample holds fewer different ones, so its "
        "percentiles are moved to have their mean at the distance measured; what the distance "
        "itself is too large by stays in.",
        f"Does not fit: captions of more than the {bench.model.text_tower.positions} tokens that "
        "the text tower reads, their two special ones among them; the rest of such a caption is "
        "not drawn from.",
    ]
    if direct is None:
        notes.append("The direct captioner is left out: direct_captions is not given.")
    return Result(
        name="fid",
        title="Captions as prompts",
        paper="Table 1",
        rows=table.rows(),
        claims=table.claims(),
        notes=notes,
        provenance=bench.provenance("fid"),
    )


def sources(
    true: list[str], model: list[str], direct: list[str] | None = None
) -> dict[str, list[str]]:
    """The captions of all n scenes by source, in the order of the table."""
    return {
        TRUE: true,
        MODEL: model,
        **({} if direct is None else {DIRECT: direct}),
        FIRST: [first_sentence(text) for text in model],
        SHUFFLED: [model[-1], *model[:-1]],
        EMPTY: [""] * len(model),
    }


def read_captions(path: Path, count: int) -> list[str]:
    """Captions of the first `count` scenes of a world set, out of a metadata.jsonl.

    A line is `{"file_name": ..., "text": ...}`; the scene is given by the name of its picture.

    Raises:
        ConfigError: the file cannot be read, or a scene has no caption in it.
        DatasetError: a line is no JSON object.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"direct_captions {path} is not a file")
    try:
        lines = decode_text(path.read_bytes()).split("\n")
    except OSError as error:
        raise ConfigError(f"cannot read direct_captions {path}: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"direct_captions {path} cannot be read: {error}") from error
    found: dict[str, object] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = parse_json(line, f"line {number} of {path}", DatasetError)
        if not isinstance(entry, dict):
            raise DatasetError(f"line {number} of {path} is not a JSON object")
        found[Path(str(entry.get("file_name"))).stem] = entry.get("text")
    captions = []
    for index in range(count):
        key = f"{index:09d}"
        text = found.get(key)
        if not isinstance(text, str):
            raise ConfigError(
                f"direct_captions {path} has no text for {key}.png; caption the folder that "
                f"`vlv world render` writes with at least {count} scenes"
            )
        captions.append(text)
    return captions


class _Table:
    """All cells, drawn and measured, and their claims."""

    def __init__(self, bench: Bench, config: FIDConfig, captions: dict[str, list[str]]) -> None:
        self._scales = tuple(dict.fromkeys(config.guidance_scales))
        self._count = config.count
        self._bootstrap = Bootstrap(config.count, config.seed)
        true = inspector_features(bench.inspector, bench.data.renders)
        self._frechet = FrechetBootstrap(true, config.seed)
        self._cells: dict[tuple[str, float], Cell] = {}
        for source, texts in captions.items():
            with torch.no_grad():
                c = bench.model.text_tower.encode_text(texts)
            unfit = mean_of(unfit_captions(bench.model.text_tower, texts))
            for scale in self._scales[:1] if source == EMPTY else self._scales:
                scores = bench.judge.score(bench.image_sampler.draw(c, scale, source))
                kept = {name: scores.ratios[name] for name in ("f1", "centre_error")}
                self._cells[source, scale] = Cell(
                    kept | {"unfit": unfit}, self._frechet.distance(scores.features)
                )

    def rows(self) -> list[Row]:
        """A row a source and scale."""
        return [
            Row(
                {"captions": source, "guidance": "any" if source == EMPTY else scale},
                self._count,
                {
                    "frechet": cell.distance.figure(),
                    **self._bootstrap.figures(cell.ratios),
                },
            )
            for (source, scale), cell in self._cells.items()
        ]

    def claims(self) -> list[Claim]:
        """The paper's claims of Table 1; those on two scales only if both were drawn."""
        # The scale that is best for the true captions favours no caption decoder.
        f1 = {s: self._bootstrap.figure(self._f1(TRUE, s)).value for s in self._scales}
        best = max(f1, key=lambda scale: f1[scale])
        gap = self._gain(MODEL, TRUE, best)
        par = Claim(
            "The model's captions are on a par with the best captions there are.",
            "Table 1 at guidance 2: VLV 6.64, GPT-4o 6.20, Gemini 2.0 Flash 5.87",
            f"F1 at guidance {best:g}: the model's minus (the true captions' - {MARGIN:g})",
            Figure(gap.value + MARGIN, gap.low + MARGIN, gap.high + MARGIN),
        )
        compared = [
            claim
            for other, statement, paper in _COMPARISONS
            if (other, best) in self._cells
            for claim in (
                Claim(
                    statement,
                    paper,
                    f"F1 at guidance {best:g}: the model's minus that of {other!r}",
                    self._gain(MODEL, other, best),
                ),
                Claim(
                    statement,
                    paper,
                    f"Fréchet* at guidance {best:g}: that of {other!r} minus the model's",
                    self._distance(other, best).minus(self._distance(MODEL, best)),
                ),
            )
        ]
        return [par, *compared, *self._guidance_claims()]

    def _guidance_claims(self) -> list[Claim]:
        claims = []
        if {1.0, 2.0} <= set(self._scales):
            complete = [s for s in (TRUE, MODEL, DIRECT) if (s, 1.0) in self._cells]
            falls = {s: self._distance(s, 1.0).minus(self._distance(s, 2.0)) for s in complete}
            least = min(falls, key=lambda source: falls[source].low)
            claims.append(
                Claim(
                    "Guidance 2 is better than none for every captioner.",
                    "Table 1: in all of 8 rows, VLV 11.47 at 1 and 6.64 at 2",
                    f"Fréchet* at 1 minus that at 2, of the row with the least: {least!r}",
                    falls[least],
                )
            )
        last = max(self._scales)
        if 2.0 in self._scales and last > 2:
            claims.append(
                Claim(
                    "More guidance than 2 makes pictures worse again.",
                    "Table 1, VLV: 6.64 at 2, 8.56 at 3, 9.90 at 4",
                    f"Fréchet* of the model's captions at {last:g} minus that at 2",
                    self._distance(MODEL, last).minus(self._distance(MODEL, 2.0)),
                )
            )
        return claims

    def _f1(self, source: str, scale: float) -> Ratio:
        return self._cells[source, scale].ratios["f1"]

    def _gain(self, source: str, other: str, scale: float) -> Figure:
        return self._bootstrap.difference(self._f1(source, scale), self._f1(other, scale))

    def _distance(self, source: str, scale: float) -> Distance:
        return self._cells[source, scale].distance


def unfit_captions(tower: TextTower, texts: Sequence[str]) -> Array:
    """(n,) 1 for a caption that the text tower cuts, else 0."""
    return np.array([float(not tower.reads_whole(text)) for text in texts])
