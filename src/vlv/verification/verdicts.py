"""What verification says of a caption: a verdict for each sentence, and why.

Imports no torch, so that a process without a model, such as that of the HTTP server, reads them.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Verdict = Literal["supported", "unsupported", "cannot_judge"]


@dataclass(frozen=True)
class Change:
    """A caption with one thing changed in one sentence, and what the decoder says of it.

    caption[start:end] is exchanged for `word`; an empty one leaves the sentence out. gains: at each
    level of noise, by which share of itself the denoising error falls. error: the standard error
    of their mean, over pairs of draws; NaN for a single pair. expected: what counts instead of the
    gain where the decoder does not heed the word and the caption decoder expects the other one.
    """

    sentence: int
    start: int
    end: int
    word: str
    gains: tuple[float, ...] = ()
    error: float = float("nan")
    expected: float = 0.0

    @property
    def gain(self) -> float:
        """The mean of the gains."""
        return sum(self.gains) / len(self.gains) if self.gains else 0.0

    @property
    def evidence(self) -> float:
        """How much speaks for the change."""
        return max(self.gain, self.expected) if self.expected else self.gain


@dataclass(frozen=True)
class SentenceSupport:
    """A sentence, text = caption[start:end], and whether the picture supports it.

    score: minus the evidence, which is mostly the share by which the decoder's error falls at the
    best change. alarm_rate: the share of true sentences that have at least this much. probability:
    that it is true, among captions like those of the fit. supported: alarm_rate is above the rate
    asked for. better: the change that explains the picture best; None where nothing does better.
    verdict says the same as `supported`, or "cannot_judge" with its reason: then the picture or the
    sentence is unlike those of training, and everything else is None.
    """

    text: str
    start: int
    end: int
    score: float | None
    alarm_rate: float | None
    probability: float | None
    supported: bool | None
    better: Change | None
    verdict: Verdict
    reason: str | None = None

    @classmethod
    def not_judged(cls, text: str, start: int, end: int, reason: str) -> "SentenceSupport":
        """That of a sentence which cannot be judged."""
        return cls(text, start, end, None, None, None, None, None, "cannot_judge", reason)

    def moved(self, by: int) -> "SentenceSupport":
        """The same where `by` characters stand before the caption."""
        better = self.better
        if better is not None:
            better = replace(better, start=better.start + by, end=better.end + by)
        return replace(self, start=self.start + by, end=self.end + by, better=better)

    def record(self) -> dict[str, Any]:
        """Its fields as JSON knows them: an error that is not known is null, as JSON has no NaN."""
        fields = asdict(self)
        if self.better is not None and math.isnan(self.better.error):
            fields["better"]["error"] = None
        return fields


@dataclass(frozen=True)
class Verified:
    """A caption of an image with a verdict for each of its sentences, and whether the image is in
    distribution (None: the model has no detector).
    """

    name: str
    caption: str
    sentences: tuple[SentenceSupport, ...]
    in_distribution: bool | None = None


def why(caption: str, sentence: SentenceSupport) -> str:
    """Why the sentence cannot be judged, or what would explain the picture better than it does, in
    words; empty if nothing does.
    """
    if sentence.reason is not None:
        return sentence.reason
    better = sentence.better
    if better is None:
        return ""
    exchange = f"“{better.word}” for “{caption[better.start : better.end]}”"
    if better.expected > better.gain:
        return f"{exchange} (the caption decoder expects it)"
    falls = f"error falls by {better.gain:.1%}"
    if not better.word:
        return f"nothing in its place ({falls})"
    return f"{exchange} ({falls})"
