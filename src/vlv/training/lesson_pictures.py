"""The pictures of a lesson with its captions, for stage 2 to learn from."""

import hashlib
from pathlib import Path

import numpy as np

from vlv.errors import TrainingError
from vlv.training.samples.images import Pictures, View
from vlv.training.samples.pseudo_captions import Taught, read_lesson
from vlv.training.stage import Batch


class LessonPictures(Pictures):
    """Of `pictures` those that a lesson has captions for. Its pairs are repeated, so that they are
    about `pair_share` of what is seen.
    """

    def __init__(self, pictures: Pictures, lesson: Path, pair_share: float) -> None:
        """Raises TrainingError where the lesson has no captions."""
        self._pictures = pictures
        captions = [one for one in read_lesson(lesson) if one.caption]
        if not captions:
            raise TrainingError(f"{lesson} has no captions: all of its pictures were refused")
        self._captions = captions + _repeated(captions, pair_share)
        self.latent_shape = pictures.latent_shape
        self.crop_size = pictures.crop_size
        self.held_out = pictures.held_out
        digest = hashlib.sha256(lesson.read_bytes()).hexdigest()[:12]
        self.fingerprint = f"{pictures.fingerprint or 'world'}-{digest}"

    def __len__(self) -> int:
        return len(self._captions)

    def view(self, index: int, draws: Batch, words: np.random.Generator | None = None) -> View:
        """Caption `index` of the lesson and its picture."""
        one = self._captions[index]
        item = dict(self._pictures.view(one.index, draws).item)
        if float(item.pop("refused", 0)):
            raise TrainingError(
                f"picture {one.index} was good when its caption was made, and is refused now; "
                "bring back the set as it was"
            )
        return View(item, one.caption)


def _repeated(captions: list[Taught], pair_share: float) -> list[Taught]:
    """The pairs once more, as often as it takes."""
    pairs = [one for one in captions if one.pair]
    taught = len(captions) - len(pairs)
    if not pairs or not taught:
        return []
    times = round(pair_share / (1 - pair_share) * taught / len(pairs))
    return pairs * max(times - 1, 0)
