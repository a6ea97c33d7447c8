"""How like its original each drawn picture is, as rows: similarity under networks, LPIPS, PSNR and
SSIM, with intervals by bootstrap over images and the pictures of other images as a control.

Shapes: n images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlv.errors import DatasetError
from vlv.evaluation.metrics.columns import column
from vlv.evaluation.metrics.image_networks import Features, ImageNetwork, cosine
from vlv.evaluation.metrics.picture_pairs import LPIPS
from vlv.evaluation.metrics.statistics import Array, Bootstrap, Figure, mean_of
from vlv.evaluation.real.images.features import (
    PairMeasures,
    drawn_pictures,
    original_pictures,
    pair_scores,
)
from vlv.evaluation.real.images.measured import Looker
from vlv.evaluation.real.images.originals import Originals

OTHER_IMAGE = "control: of another image"
_SCORES = "scores"


@dataclass(frozen=True)
class Likeness:
    """What is measured. networks: name of the figure -> network. side: of the pictures for LPIPS,
    PSNR and SSIM. pixelwise: whether PSNR and SSIM are.
    """

    networks: Mapping[str, ImageNetwork]
    lpips: LPIPS | None
    side: int
    pixelwise: bool

    @property
    def names(self) -> list[str]:
        """The figures."""
        return [*self.networks, *PairMeasures(self.side, self.lpips, self.pixelwise).names]

    @property
    def notes(self) -> list[str]:
        """What the figures are."""
        notes = [
            f"{column(name).heading}: the cosine of the features of a picture and of its original "
            f"under {network.about['network']}."
            for name, network in self.networks.items()
        ]
        if self.lpips is not None:
            notes.append(
                f"LPIPS: by {self.lpips.about['lpips']}, of the middle squares of both at "
                f"{self.side} pixels; lower is better."
            )
        return notes

    @property
    def about(self) -> dict[str, object]:
        """For the provenance."""
        return {
            "side": self.side,
            **{name: network.about for name, network in self.networks.items()},
            **(self.lpips.about if self.lpips else {}),
        }


@dataclass
class LikenessMeter:
    """Measures drawn pictures of the originals numbered `kept`. true: figure -> features (n, F) of
    these originals.
    """

    looker: Looker
    originals: Originals
    kept: Sequence[int]
    true: Mapping[str, Features]

    def scores(
        self, likeness: Likeness, files: Sequence[Path], description: str, *, shift: int = 0
    ) -> dict[str, Array]:
        """Each figure of every image (n,). files: a picture of each kept image. shift: so many
        places on stands the image whose picture is looked at; a control.

        Raises:
            DatasetError: a drawn picture does not decode.
        """
        count = len(files)
        order = [(at + shift) % count for at in range(count)]
        found = {
            name: cosine(self.true[name], self.looker.drawn(files, network, description)[order])
            for name, network in likeness.networks.items()
        }
        measures = PairMeasures(likeness.side, likeness.lpips, likeness.pixelwise)
        if measures.names:
            pictures = original_pictures(self.originals)
            found |= pair_scores(
                [pictures[at] for at in self.kept],
                drawn_pictures([files[at] for at in order]),
                measures,
                self.looker.folder / _SCORES,
                batch_size=self.looker.batch_size,
                progress=self.looker.progress,
                description=f"{description}, in pairs",
            )
        for name, values in found.items():
            if not np.isfinite(values).all():
                at = order[int(np.flatnonzero(~np.isfinite(values))[0])]
                raise DatasetError(
                    f"{name} of the picture {files[at]} cannot be computed; remove it, and the "
                    "same command draws it again"
                )
        return found


def figures(scores: Mapping[str, Array], bootstrap: Bootstrap) -> dict[str, Figure]:
    """Means with intervals."""
    return {name: bootstrap.figure(mean_of(values)) for name, values in scores.items()}


def differences(
    scores: Mapping[str, Array], first: Mapping[str, Array], bootstrap: Bootstrap
) -> dict[str, Figure]:
    """Means minus those of the first row, over the same images."""
    return {
        name: bootstrap.difference(mean_of(values), mean_of(first[name]))
        for name, values in scores.items()
    }


def as_text(scores: Mapping[str, Array], at: int) -> str:
    """The scores of one image."""
    columns = {name: column(name) for name in scores}
    return ", ".join(
        f"{columns[name].heading} {values[at]:.{columns[name].decimals}f}"
        for name, values in scores.items()
    )


def ordering(scores: Mapping[str, Array]) -> tuple[str, Array]:
    """The heading of the figure that a page is ordered by, and its values, higher for pictures that
    are alike.
    """
    name = next(iter(scores))
    by = column(name)
    return by.heading, by.better * scores[name]
