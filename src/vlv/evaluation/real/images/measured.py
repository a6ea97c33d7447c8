"""What the commands on pictures have in common once pictures are drawn: which images count, their
features, and the files of a result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vlv.errors import DatasetError, ImageError
from vlv.evaluation.metrics.image_networks import Features, ImageNetwork
from vlv.evaluation.real.captions_file import without_caption
from vlv.evaluation.real.images.drawing import Shard
from vlv.evaluation.real.images.features import (
    Picture,
    drawn_pictures,
    features_of,
    original_pictures,
    undecodable,
)
from vlv.evaluation.real.images.originals import CaptionedImages, Originals
from vlv.evaluation.real.result_page import Panel, Shown, thumbnail
from vlv.evaluation.results import Progress, Result, to_json
from vlv.files import write_json, write_text

FEATURES = "features"


@dataclass(frozen=True)
class Measured:
    """The result, its two files, and what it leaves out: images with the reasons."""

    result: Result
    files: list[Path]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Unfinished:
    """Nothing was measured: so many pictures are left for other shards."""

    left: int
    shard: Shard


@dataclass(frozen=True)
class Looker:
    """Looks at pictures through networks, and keeps features below a folder."""

    folder: Path
    batch_size: int
    progress: Progress

    def originals(
        self, originals: Originals, networks: Sequence[ImageNetwork]
    ) -> tuple[list[int], list[Features], dict[str, str]]:
        """The numbers of the images that decode, features of these by every network, and the other
        images with the reasons. Without a network images are decoded only.

        Raises:
            DatasetError: no image decodes.
        """
        pictures = original_pictures(originals)
        found = [self._features(pictures, network, "originals") for network in networks]
        lost: dict[int, str] = {}
        for features in found:
            lost |= undecodable(pictures, features)
        if not networks:
            lost = self._not_decoded(pictures)
        kept = [at for at in range(len(pictures)) if at not in lost]
        if not kept:
            raise DatasetError(f"no image decodes: {next(iter(lost.values()))}")
        reasons = {originals.names[at]: reason for at, reason in lost.items()}
        return kept, [features[kept] for features in found], reasons

    def drawn(self, files: Sequence[Path], network: ImageNetwork, description: str) -> Features:
        """Features of drawn pictures.

        Raises:
            DatasetError: one does not decode.
        """
        pictures = drawn_pictures(files)
        found = self._features(pictures, network, description)
        for reason in undecodable(pictures, found).values():
            raise DatasetError(reason)
        return found

    def _features(
        self, pictures: Sequence[Picture], network: ImageNetwork, description: str
    ) -> Features:
        return features_of(
            pictures,
            network,
            self.folder / FEATURES,
            batch_size=self.batch_size,
            progress=self.progress,
            description=f"{description} by {Path(str(network.about['network'])).name}",
        )

    def _not_decoded(self, pictures: Sequence[Picture]) -> dict[int, str]:
        lost = {}
        total = len(pictures)
        for at in self.progress(range(total), total=total, unit="image", description="decoding"):
            try:
                pictures[at].read()
            except (ImageError, DatasetError) as error:
                lost[at] = str(error)
        return lost


def named_reasons(reasons: Mapping[str, str]) -> dict[str, str]:
    """Why images were left out, each as a sentence that names its image."""
    return {
        name: reason if name in reason else f"{name}: {reason}" for name, reason in reasons.items()
    }


def left_out(captioned: CaptionedImages, undecodable: Mapping[str, str]) -> dict[str, str]:
    """The images that no row of captioners has, each with the reason as a sentence."""
    reasons = named_reasons({**captioned.originals.refused, **undecodable})
    for captioner, names in captioned.missing.items():
        for name in names:
            reasons.setdefault(name, without_caption(name, [captioner]))
    return reasons


def write_result(out: Path, name: str, result: Result, page: str) -> list[Path]:
    """`OUT/NAME.json` and `OUT/NAME.html`."""
    files = [out / f"{name}.json", out / f"{name}.html"]
    write_json(files[0], to_json(result))
    write_text(files[1], page)
    return files


def shown_image(
    originals: Originals, at: int, drawn: Sequence[tuple[str, Path, str, str]]
) -> Shown:
    """An image on a page. drawn: label, file, scores and text of each picture of it."""
    panels = [Panel("original", _small(lambda: originals.picture(at)))]
    for label, file, scores, text in drawn:
        panels.append(Panel(label, _small(lambda file=file: _opened(file)), scores, text))  # type: ignore[misc]
    return Shown(originals.names[at], panels)


def _opened(file: Path) -> Image.Image:
    with Image.open(file, formats=["PNG"]) as picture:
        return picture.convert("RGB")


def _small(read: Callable[[], Image.Image]) -> str | None:
    try:
        return thumbnail(read())
    except (ImageError, DatasetError, OSError):
        return None  # named before, as one that does not decode
