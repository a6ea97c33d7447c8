"""`vlv eval fidelity`: is the picture that is drawn from a caption like the image that the caption
is of? As TaBR, RICO and CycleReward judge captions. It has the pictures of `vlv eval coco-fid`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from vlv.errors import ConfigError
from vlv.evaluation.metrics.image_networks import open_network
from vlv.evaluation.metrics.libraries import torchmetrics
from vlv.evaluation.metrics.picture_pairs import LPIPS
from vlv.evaluation.metrics.statistics import Array, Bootstrap
from vlv.evaluation.real.images.caption_pictures import (
    CaptionPictures,
    CaptionSource,
    Cell,
    DrawingSettings,
    caption_pictures,
    cell_labels,
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
    left_out,
    shown_image,
    write_result,
)
from vlv.evaluation.real.result_page import Section, Shown, best_worst_random, images_page
from vlv.evaluation.results import Progress, Result, Row

NAME = "fidelity"
SCORES, DIFFERENCES = "likeness to the original", "differences to the first captioner"
# Pictures and originals are compared by LPIPS at this size.
_SIDE = 256


@dataclass(frozen=True)
class FidelitySettings:
    """dino, clip: ids or folders; lpips: name of its network; None leaves a figure out."""

    given: CaptionSource
    drawing: DrawingSettings = field(default_factory=DrawingSettings)
    dino: str | None = "facebook/dinov2-base"
    clip: str | None = None
    lpips: str | None = "alex"
    lpips_weights: Path | None = None
    feature_batch_size: int = 32


def measure_fidelity(settings: FidelitySettings, progress: Progress) -> Measured | Unfinished:
    """Draw what is missing, compare, and write `fidelity.json` and `fidelity.html`.

    Raises:
        ConfigError: nothing is to be measured or drawn; the folder was begun otherwise.
        DatasetError: the set or a captions file cannot be read, or no image decodes.
        CheckpointError: the pipeline or a network cannot be opened.
    """
    given, seed = settings.given, settings.drawing.seed
    likeness = _likeness(settings)
    drawn = caption_pictures(given, settings.drawing, progress)
    if drawn.left:
        return Unfinished(drawn.left, given.shard)
    looker = Looker(given.out, settings.feature_batch_size, progress)
    originals = drawn.captioned.originals
    kept, true, lost = looker.originals(originals, list(likeness.networks.values()))
    seen = dict(zip(likeness.networks, true, strict=True))
    meter = LikenessMeter(looker, originals, kept, seen)
    scores = {
        cell: meter.scores(likeness, [files[at] for at in kept], f"{cell[0]} x{cell[1]:g}")
        for cell, files in drawn.files.items()
    }
    first = next(iter(scores))
    control = None
    if len(kept) > 1:
        files = [drawn.files[first][at] for at in kept]
        control = meter.scores(likeness, files, OTHER_IMAGE, shift=1)
    result = Result(
        name=NAME,
        title="Pictures drawn from captions, beside their originals",
        paper="no counterpart: the paper compares sets of pictures",
        rows=_rows(scores, control, len(kept), seed),
        notes=[
            *likeness.notes,
            "± is half a 95% interval, by bootstrap over images, the same ones for every row.",
            f"The control has the pictures of {first[0]} at guidance {first[1]:g}, each beside "
            "another image.",
        ],
        provenance={**drawn.provenance, "likeness": likeness.about},
    )
    page = images_page(result, _sections(drawn, kept, scores, seed))
    files = write_result(given.out, NAME, result, page)
    return Measured(result, files, left_out(drawn.captioned, lost))


def _likeness(settings: FidelitySettings) -> Likeness:
    named = {"dino": settings.dino, "clip_image": settings.clip}
    device = settings.drawing.device
    networks = {
        figure: open_network(name, device) for figure, name in named.items() if name is not None
    }
    lpips = None
    if settings.lpips is not None:
        torchmetrics("functional.image")
        lpips = LPIPS(settings.lpips, device, settings.lpips_weights)
    if not networks and lpips is None:
        raise ConfigError("name what to compare pictures by: --dino, --clip or --lpips")
    return Likeness(networks, lpips, _SIDE, pixelwise=False)


def _rows(
    scores: dict[Cell, dict[str, Array]],
    control: dict[str, Array] | None,
    count: int,
    seed: int,
) -> list[Row]:
    bootstrap = Bootstrap(count, seed)
    first = next(iter(scores))
    rows = [
        Row(cell_labels(SCORES, cell), count, figures(found, bootstrap))
        for cell, found in scores.items()
    ]
    if control is not None:
        rows.append(
            Row(cell_labels(SCORES, (OTHER_IMAGE, first[1])), count, figures(control, bootstrap))
        )
    rows += [
        Row(
            cell_labels(DIFFERENCES, cell),
            count,
            differences(found, scores[first[0], cell[1]], bootstrap),
        )
        for cell, found in scores.items()
        if cell[0] != first[0]
    ]
    return rows


def _sections(
    drawn: CaptionPictures, kept: list[int], scores: dict[Cell, dict[str, Array]], seed: int
) -> list[Section[Shown]]:
    """All captioners at the first scale, ordered by the first one's pictures."""
    first = next(iter(scores))
    cells = [cell for cell in scores if cell[1] == first[1]]
    name, values = ordering(scores[first])

    def shown(at: int) -> Shown:
        image = kept[at]
        return shown_image(
            drawn.captioned.originals,
            image,
            [
                (
                    cell[0],
                    drawn.files[cell][image],
                    as_text(scores[cell], at),
                    drawn.captioned.texts[cell[0]][image],
                )
                for cell in cells
            ],
        )

    about = f"by {name}, of {first[0]} at guidance {first[1]:g}"
    return best_worst_random(values, f"Most alike {about}", f"Least alike {about}", shown, seed)
