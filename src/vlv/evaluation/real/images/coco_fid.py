"""`vlv eval coco-fid`: pictures drawn from captions against the real ones (the paper's Table 1).

Every row is over the same images: those that have a caption by every captioner and that decode.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlv.evaluation.metrics.frechet import Distance
from vlv.evaluation.metrics.image_networks import (
    INCEPTION,
    Features,
    ImageNetwork,
    open_network,
)
from vlv.evaluation.metrics.libraries import torchmetrics
from vlv.evaluation.metrics.statistics import Bootstrap, mean_of
from vlv.evaluation.real.images.caption_pictures import (
    CaptionPictures,
    CaptionSource,
    Cell,
    DrawingSettings,
    caption_pictures,
    cell_labels,
)
from vlv.evaluation.real.images.drawing import held
from vlv.evaluation.real.images.frechet_rows import (
    FrechetSettings,
    distances,
    feature_distance,
    frechet_notes,
    kernel_distance,
    names_of,
)
from vlv.evaluation.real.images.measured import (
    Looker,
    Measured,
    Unfinished,
    left_out,
    shown_image,
    write_result,
)
from vlv.evaluation.real.result_page import Section, Shown, best_worst_random, images_page
from vlv.evaluation.results import Progress, Result, Row

NAME = "coco-fid"
SCORES, DIFFERENCES = "pictures drawn from captions", "differences to the first captioner"
_PAPER = (
    "The paper, on 30,000 images of COCO 2014 val with Stable Diffusion 3.5 medium, 40 steps, at "
    "guidance 1, 2, 3, 4: COCO captions 16.62, 9.90, 12.69, 14.49; VLV 11.47, 6.64, 8.56, 9.90; "
    "GPT-4o 12.16, 6.20, 7.96, 9.25."
)


@dataclass(frozen=True)
class CocoFIDSettings:
    """features: the network of FID; None draws only. resamples: of FID's interval."""

    given: CaptionSource
    drawing: DrawingSettings = field(default_factory=DrawingSettings)
    features: str | None = INCEPTION
    inception_weights: Path | None = None
    resamples: int = 100
    feature_batch_size: int = 32


def measure_coco_fid(settings: CocoFIDSettings, progress: Progress) -> Measured | Unfinished | None:
    """Draw what is missing, measure, and write `coco-fid.json` and `coco-fid.html`; None where
    nothing is measured because no network is named.

    Raises:
        ConfigError: nothing is to be drawn; the folder was begun otherwise; a package is missing.
        DatasetError: the set or a captions file cannot be read, or no image decodes.
        CheckpointError: the pipeline or the network cannot be opened.
    """
    given = settings.given
    if settings.features is None:
        drawn = caption_pictures(given, settings.drawing, progress)
        return Unfinished(drawn.left, given.shard) if drawn.left else None
    # Opened first: what is missing is reported before the work.
    torchmetrics("image.fid")
    network = open_network(settings.features, settings.drawing.device, settings.inception_weights)
    drawn = caption_pictures(given, settings.drawing, progress)
    if drawn.left:
        return Unfinished(drawn.left, given.shard)
    looker = Looker(given.out, settings.feature_batch_size, progress)
    kept, (true,), lost = looker.originals(drawn.captioned.originals, [network])
    sets = {
        cell: looker.drawn([files[at] for at in kept], network, f"{cell[0]} x{cell[1]:g}")
        for cell, files in drawn.files.items()
    }
    seen = _Seen(network, drawn, kept, true, sets)
    found = distances(
        true,
        sets,
        FrechetSettings(settings.resamples, settings.drawing.seed, settings.drawing.device),
        progress,
    )
    result = Result(
        name=NAME,
        title="Pictures drawn from captions, against the real ones",
        paper="Table 1",
        rows=[*_rows(seen, found, settings.drawing.seed), *_differences(seen, found)],
        notes=[
            *frechet_notes(network, len(kept), true.shape[1], settings.resamples),
            "Does not fit: captions that every text encoder of the pipeline cuts.",
            _PAPER,
        ],
        provenance={**drawn.provenance, "features": network.about},
    )
    page = images_page(result, _sections(seen, found, settings.drawing.seed))
    files = write_result(given.out, NAME, result, page)
    return Measured(result, files, left_out(drawn.captioned, lost))


@dataclass(frozen=True)
class _Seen:
    """The drawn pictures of the images that decode (`kept`), and features of both."""

    network: ImageNetwork
    drawn: CaptionPictures
    kept: list[int]
    true: Features
    sets: dict[Cell, Features]

    def files(self, cell: Cell) -> list[Path]:
        return [self.drawn.files[cell][at] for at in self.kept]


def _rows(seen: _Seen, found: dict[Cell, Distance], seed: int) -> list[Row]:
    count = len(seen.kept)
    bootstrap = Bootstrap(count, seed)
    distance, kernel = names_of(seen.network)
    rows = []
    for cell, features in seen.sets.items():
        said = (held(file) for file in seen.files(cell))
        cut = np.array([float(one is not None and one.cut) for one in said])
        figures = {
            distance: found[cell].figure(),
            kernel: kernel_distance(seen.true, [features], seed),
            "unfit": bootstrap.figure(mean_of(cut)),
        }
        rows.append(Row(cell_labels(SCORES, cell), count, figures))
    return rows


def _differences(seen: _Seen, found: dict[Cell, Distance]) -> list[Row]:
    """Each other captioner minus the first one at the same scale, over the same images."""
    first = next(iter(seen.sets))[0]
    distance, _ = names_of(seen.network)
    return [
        Row(
            cell_labels(DIFFERENCES, cell),
            len(seen.kept),
            {distance: one.minus(found[first, cell[1]])},
        )
        for cell, one in found.items()
        if cell[0] != first
    ]


def _sections(seen: _Seen, found: dict[Cell, Distance], seed: int) -> list[Section[Shown]]:
    """All captioners at the scale that is best for the first one, ordered by its pictures."""
    first = next(iter(seen.sets))[0]
    scales = [scale for captioner, scale in seen.sets if captioner == first]
    best = min(scales, key=lambda scale: found[first, scale].value)
    cells = [cell for cell in seen.sets if cell[1] == best]
    gaps = {cell: feature_distance(seen.true, seen.sets[cell]) for cell in cells}
    originals, texts = seen.drawn.captioned.originals, seen.drawn.captioned.texts

    def shown(at: int) -> Shown:
        image = seen.kept[at]
        return shown_image(
            originals,
            image,
            [
                (
                    cell[0],
                    seen.drawn.files[cell][image],
                    f"distance {gaps[cell][at]:.2f}",
                    texts[cell[0]][image],
                )
                for cell in cells
            ],
        )

    about = f"by features, of {first} at guidance {best:g}"
    return best_worst_random(
        -gaps[first, best], f"Nearest to the original {about}", f"Farthest {about}", shown, seed
    )
