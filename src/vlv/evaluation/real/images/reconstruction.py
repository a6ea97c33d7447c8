"""`vlv eval reconstruction`: pictures drawn from an image's caption embeddings, against the image
(the paper's Table 4 left and Table 5, on one's own images).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlv.errors import ConfigError
from vlv.evaluation.metrics.frechet import Distance
from vlv.evaluation.metrics.image_networks import (
    INCEPTION,
    Features,
    ImageNetwork,
    open_network,
)
from vlv.evaluation.metrics.libraries import torchmetrics
from vlv.evaluation.metrics.picture_pairs import LPIPS
from vlv.evaluation.metrics.statistics import Array, Bootstrap
from vlv.evaluation.real.images.frechet_rows import (
    FrechetSettings,
    distances,
    frechet_notes,
    kernel_distance,
    names_of,
)
from vlv.evaluation.real.images.likeness import (
    OTHER_IMAGE,
    Likeness,
    LikenessMeter,
    as_text,
    differences,
    figures,
    ordering,
)
from vlv.evaluation.real.images.measured import (
    Looker,
    Measured,
    Unfinished,
    named_reasons,
    shown_image,
    write_result,
)
from vlv.evaluation.real.images.originals import Originals, read_originals
from vlv.evaluation.real.images.reconstructing import (
    Cell,
    Reconstructions,
    ReconstructionSettings,
    open_models,
    reconstruct,
)
from vlv.evaluation.real.result_page import Section, Shown, best_worst_random, images_page
from vlv.evaluation.results import PART, Progress, Result, Row, environment

NAME = "reconstruction"
SCORES, DIFFERENCES = "reconstructions", "differences to the first model"
FOLDER, INDEX = "reconstructions", "index"
# Of the network of FID, among those that look at pictures.
_FRECHET = "frechet"
_PAPER = (
    "The paper, from embeddings of 40 million images through Stable Diffusion 2.1, FID at guidance "
    "1, 2, 3, 4: 9.71, 7.22, 7.70, 7.84 (Table 5); by number of queries, 16, 32, 77, on COCO 2017: "
    "5.72, 5.60, 5.30 (Table 4)."
)


@dataclass(frozen=True)
class ReconstructionTableSettings:
    """features, dino, lpips: None leaves the figures out. resamples: of FID's interval."""

    source: Path
    out: Path
    models: Mapping[str, str]
    drawing: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    features: str | None = INCEPTION
    inception_weights: Path | None = None
    dino: str | None = "facebook/dinov2-base"
    lpips: str | None = "alex"
    lpips_weights: Path | None = None
    limit: int | None = None
    resamples: int = 100
    feature_batch_size: int = 32


def measure_reconstruction(
    settings: ReconstructionTableSettings, progress: Progress
) -> Measured | Unfinished:
    """Draw what is missing, compare, and write `reconstruction.json` and `reconstruction.html`.

    Raises:
        ConfigError: no model is named; the folder was begun otherwise; a package is missing.
        DatasetError: the set cannot be read, or no image decodes.
        CheckpointError: a model or a network cannot be opened.
    """
    if not settings.models:
        raise ConfigError("name a model to reconstruct by: --model NAME=MODEL")
    # Opened first: what is missing is reported before the work.
    torchmetrics("image.fid")
    models = open_models(settings.models, settings.drawing)
    by = _Networks.open(settings)
    originals = read_originals(settings.source, settings.out / INDEX, settings.limit, progress)
    looker = Looker(settings.out, settings.feature_batch_size, progress)
    kept, seen, lost = looker.originals(originals, by.all)
    true = dict(zip(by.names, seen, strict=True))
    drawn = {}
    for name in settings.models:
        # Popped, so that the weights of one model at a time are in memory.
        drawn[name] = reconstruct(
            settings.out / FOLDER,
            name,
            models.pop(name),
            originals,
            kept,
            settings.drawing,
            progress,
        )
    if left := sum(one.left for one in drawn.values()):
        return Unfinished(left, settings.drawing.shard)
    table = _table(settings, drawn, by, LikenessMeter(looker, originals, kept, true))
    pictures = {cell: sets for one in drawn.values() for cell, sets in one.pictures.items()}
    rows, notes = table.rows(), _notes(settings, table)
    if by.frechet is not None:
        frechet = _Frechet(by.frechet, true[_FRECHET], looker, settings)
        rows = frechet.added(rows, pictures, progress)
        notes = frechet.notes() + notes
    result = Result(
        name=NAME,
        title="Reconstructions from caption embeddings",
        paper="Tables 4 and 5",
        rows=rows,
        notes=[*notes, _PAPER],
        provenance={
            "environment": environment(),
            "source": str(settings.source),
            "set": originals.images.fingerprint,
            "limit": settings.limit,
            "models": {
                name: {"model": settings.models[name], **one.about} for name, one in drawn.items()
            },
            "seeds": list(settings.drawing.seeds),
            "networks": by.about,
        },
    )
    page = images_page(result, _sections(originals, kept, pictures, table))
    files = write_result(settings.out, NAME, result, page)
    return Measured(result, files, named_reasons({**originals.refused, **lost}))


@dataclass(frozen=True)
class _Networks:
    """What looks at pictures."""

    frechet: ImageNetwork | None
    dino: ImageNetwork | None
    lpips: LPIPS | None

    @classmethod
    def open(cls, settings: ReconstructionTableSettings) -> "_Networks":
        device = settings.drawing.device
        return cls(
            open_network(settings.features, device, settings.inception_weights)
            if settings.features is not None
            else None,
            open_network(settings.dino, device) if settings.dino is not None else None,
            LPIPS(settings.lpips, device, settings.lpips_weights)
            if settings.lpips is not None
            else None,
        )

    @property
    def _named(self) -> dict[str, ImageNetwork]:
        both = {_FRECHET: self.frechet, "dino": self.dino}
        return {name: network for name, network in both.items() if network is not None}

    @property
    def all(self) -> list[ImageNetwork]:
        return list(self._named.values())

    @property
    def names(self) -> list[str]:
        return list(self._named)

    @property
    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: network.about for name, network in self._named.items()}
        return found | (self.lpips.about if self.lpips else {})

    def likeness(self, side: int) -> Likeness:
        networks = {} if self.dino is None else {"dino": self.dino}
        return Likeness(networks, self.lpips, side, pixelwise=True)


@dataclass(frozen=True)
class _Table:
    """Scores of every image by model and scale. notes: what the figures are."""

    count: int
    seed: int
    scores: dict[Cell, dict[str, Array]]
    control: dict[str, Array] | None
    notes: list[str]

    @property
    def first(self) -> Cell:
        return next(iter(self.scores))

    def rows(self) -> list[Row]:
        bootstrap = Bootstrap(self.count, self.seed)
        rows = [
            Row(_labels(SCORES, cell), self.count, figures(scores, bootstrap))
            for cell, scores in self.scores.items()
        ]
        if self.control is not None:
            labels = _labels(SCORES, (OTHER_IMAGE, self.first[1]))
            rows.append(Row(labels, self.count, figures(self.control, bootstrap)))
        rows += [
            Row(
                _labels(DIFFERENCES, cell),
                self.count,
                differences(scores, self.scores[self.first[0], cell[1]], bootstrap),
            )
            for cell, scores in self.scores.items()
            if cell[0] != self.first[0]
        ]
        return rows


def _table(
    settings: ReconstructionTableSettings,
    drawn: Mapping[str, Reconstructions],
    by: _Networks,
    meter: LikenessMeter,
) -> _Table:
    """Each picture beside its image; over seeds, the mean of an image."""
    scores: dict[Cell, dict[str, Array]] = {}
    control = None
    notes: dict[str, None] = {}
    for one in drawn.values():
        likeness = by.likeness(one.side)
        notes |= dict.fromkeys(likeness.notes)
        for cell, sets in one.pictures.items():
            found = [meter.scores(likeness, files, f"{cell[0]} x{cell[1]:g}") for files in sets]
            scores[cell] = {
                name: np.mean([score[name] for score in found], axis=0) for name in found[0]
            }
            if control is None and len(meter.kept) > 1:
                control = meter.scores(likeness, sets[0], OTHER_IMAGE, shift=1)
    return _Table(len(meter.kept), settings.drawing.seeds[0], scores, control, list(notes))


@dataclass(frozen=True)
class _Frechet:
    """Adds FID and KID to rows."""

    network: ImageNetwork
    true: Features
    looker: Looker
    settings: ReconstructionTableSettings

    def added(
        self, rows: Sequence[Row], pictures: dict[Cell, list[list[Path]]], progress: Progress
    ) -> list[Row]:
        fid, kid = names_of(self.network)
        seed = self.settings.drawing.seeds[0]
        sets = {
            (cell, number): self.looker.drawn(files, self.network, f"{cell[0]} x{cell[1]:g}")
            for cell, some in pictures.items()
            for number, files in enumerate(some)
        }
        measured = FrechetSettings(self.settings.resamples, seed, self.settings.drawing.device)
        found = distances(self.true, sets, measured, progress)
        means = {
            cell: Distance.mean([found[cell, number] for number in range(len(some))])
            for cell, some in pictures.items()
        }
        first = next(iter(pictures))[0]
        complete = []
        for row in rows:
            cell = (str(row.labels["model"]), float(row.labels["guidance"]))
            more = {}
            if cell in means and row.labels[PART] == SCORES:
                own = [sets[cell, number] for number in range(len(pictures[cell]))]
                more = {fid: means[cell].figure(), kid: kernel_distance(self.true, own, seed)}
            elif cell in means:
                more = {fid: means[cell].minus(means[first, cell[1]])}
            complete.append(replace(row, figures=more | row.figures))
        return complete

    def notes(self) -> list[str]:
        count, width = self.true.shape
        return frechet_notes(self.network, count, width, self.settings.resamples)


def _labels(part: str, cell: Cell) -> dict[str, str | int | float]:
    return {PART: part, "model": cell[0], "guidance": cell[1]}


def _notes(settings: ReconstructionTableSettings, table: _Table) -> list[str]:
    notes = [
        *table.notes,
        "PSNR and SSIM: of the middle square of the image at the size of the picture, pixel by "
        "pixel: a picture that shows the same things elsewhere scores as one of other things.",
        "± is half a 95% interval, by bootstrap over images, the same ones for every row.",
        f"The control has the pictures of {table.first[0]}, each beside another image.",
    ]
    if len(settings.drawing.seeds) > 1:
        notes.append(f"Figures are means over {len(settings.drawing.seeds)} seeds of noise.")
    return notes


def _sections(
    originals: Originals,
    kept: Sequence[int],
    pictures: Mapping[Cell, list[list[Path]]],
    table: _Table,
) -> list[Section[Shown]]:
    """All models at the first scale and seed, ordered by the first one's pictures."""
    first = table.first
    cells = [cell for cell in pictures if cell[1] == first[1]]
    name, values = ordering(table.scores[first])

    def shown(at: int) -> Shown:
        return shown_image(
            originals,
            kept[at],
            [
                (cell[0], pictures[cell][0][at], as_text(table.scores[cell], at), "")
                for cell in cells
            ],
        )

    about = f"by {name}, of {first[0]} at guidance {first[1]:g}"
    return best_worst_random(
        values, f"Most alike {about}", f"Least alike {about}", shown, table.seed
    )
