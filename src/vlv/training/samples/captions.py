"""Captions of samples: which one is learned from, where a sample has several.

A caption file of several lines holds several captions, one a line, as this program writes them.
"""

import logging
from collections.abc import Iterable

import numpy as np

from vlv.data.samples import Sample

logger = logging.getLogger(__name__)


class CaptionChoice:
    """One caption of a sample each time that it is seen; with `joined`, all of them as one."""

    def __init__(self, joined: bool) -> None:
        self._joined = joined
        self._reported = False

    def of(self, sample: Sample, words: np.random.Generator | None = None) -> str:
        """Drawn by `words`, or the first one without; empty where there is none."""
        captions = self._captions(sample)
        if words is None or len(captions) < 2:
            return captions[0] if captions else ""
        self._report(sample, len(captions))
        return captions[int(words.integers(len(captions)))]

    def look_over(self, samples: Iterable[Sample]) -> None:
        """Report before the run begins whether any of these has several captions."""
        for sample in samples:
            if (count := len(self._captions(sample))) > 1:
                self._report(sample, count)

    def _captions(self, sample: Sample) -> list[str]:
        captions = sample.texts
        return [" ".join(captions)] if captions and self._joined else captions

    def _report(self, sample: Sample, count: int) -> None:
        if self._reported:
            return
        self._reported = True
        logger.warning(
            "%s has %d captions, one a line: one of them is drawn each time that the picture is "
            "seen, and a held-out picture keeps its first; set data.join_captions=true where all "
            "lines are one caption",
            sample.file_name,
            count,
        )
