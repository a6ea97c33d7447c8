"""Pseudo-captions: a file of captions that a model wrote of pictures without any, beside those of
the pairs that it has; and the pictures with these captions, for stage 2 to learn from.

The file has a line of JSON for each picture. Knows no model: `vlv.training.pseudo_captioning` makes
the captions.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlv.errors import TrainingError
from vlv.training.batched_lines import read_lines
from vlv.training.samples.images import ImageStore, View
from vlv.training.samples.source import Batch


@dataclass(frozen=True)
class PseudoCaption:
    """A caption of picture `index`: its own where `pair`, otherwise the model's. Stage 2 leaves out
    an empty one, of a picture that was refused or that the model wrote nothing for.

    Of a selected caption: how many of the samples are different, its score, and the mean of the
    samples' scores and of their words.
    """

    index: int
    caption: str
    pair: bool
    different: int = 0
    score: float = 0.0
    mean_score: float = 0.0
    mean_words: float = 0.0


def read_pseudo_captions(path: Path) -> list[PseudoCaption]:
    """Raises TrainingError for a file that holds something else."""
    return read_lines(path, PseudoCaption, "pseudo-caption")


class PseudoCaptionStore(ImageStore):
    """Those pictures of a store that a file has captions for. Its pairs are repeated, so that they
    are about `pair_share` of what is seen; each is seen once at least.
    """

    def __init__(self, store: ImageStore, path: Path, pair_share: float) -> None:
        """Raises TrainingError where the file has no captions."""
        captions = [one for one in read_pseudo_captions(path) if one.caption]
        if not captions:
            raise TrainingError(f"{path} has no captions: all of its pictures were refused")
        self._store = store
        self._captions = captions + _repeated(captions, pair_share)
        self.crop_size = store.crop_size
        self.counts_refused = store.counts_refused
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        self.fingerprint = f"{store.fingerprint or 'world'}-{digest}"

    def __len__(self) -> int:
        return len(self._captions)

    def view(self, index: int, words: np.random.Generator | None = None) -> View:
        """Caption `index` of the file and its picture."""
        one = self._captions[index]
        view = self._store.good_view(one.index)
        if view is None:
            raise TrainingError(
                f"picture {one.index} was good when its caption was made, and is refused now; "
                "bring back the set as it was"
            )
        return View(view.item, one.caption)

    def with_latents(self, index: int, draws: Batch) -> Batch:
        """Latents of the picture of caption `index`."""
        return self._store.with_latents(self._captions[index].index, draws)


def _repeated(captions: list[PseudoCaption], pair_share: float) -> list[PseudoCaption]:
    """The pairs again, as often as `pair_share` needs."""
    pairs = [one for one in captions if one.pair]
    others = len(captions) - len(pairs)
    if not pairs or not others:
        return []
    times = round(pair_share / (1 - pair_share) * others / len(pairs))
    return pairs * max(times - 1, 0)
