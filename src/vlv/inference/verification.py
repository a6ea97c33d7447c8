"""Captions checked by the decoder: marks a sentence, the best of several, doubtful ones left out.

Knows models and the decoder of images; knows nothing of where results are written.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from PIL import Image

from vlv.errors import CheckpointError, ConfigError, ImageError
from vlv.inference.captioning import Captioned
from vlv.inference.encoding import Source
from vlv.inference.sources import Refused
from vlv.models.vlv import VLV
from vlv.verification.evidence import VerifySettings, Witness
from vlv.verification.verifier import FALSE_ALARM_RATE, SentenceSupport

T = TypeVar("T", bound="Source | Refused")


@dataclass(frozen=True)
class Verified:
    """A caption of an image and what the decoder says of each of its sentences; `in_distribution`
    as of `Encoded`.
    """

    name: str
    caption: str
    sentences: tuple[SentenceSupport, ...]
    in_distribution: bool | None = None


@dataclass(frozen=True)
class CheckSettings:
    """What is done to captions after they are written.

    best_of: whether the caption that explains the picture best takes the first place among all of
    an image; of an image that the model does not know, the first one, since none explains it.
    drop_unsupported: whether sentences in doubt are left out; those that cannot be judged stay, and
    the least doubtful one, since an empty caption says nothing. verify: whether marks are made of
    what is left.
    """

    best_of: bool = False
    drop_unsupported: bool = False
    verify: bool = False
    false_alarm_rate: float = FALSE_ALARM_RATE

    def __post_init__(self) -> None:
        if not 0 <= self.false_alarm_rate <= 1:
            raise ConfigError(f"the false-alarm rate must be 0 to 1, not {self.false_alarm_rate}")

    @property
    def any(self) -> bool:
        """Whether anything is done."""
        return self.best_of or self.drop_unsupported or self.verify


def require_parts(model: VLV, *, marks: bool) -> None:
    """Raise CheckpointError, before any work, where a model cannot check captions: without a
    decoder, or, for marks, without a verifier.
    """
    needed = {"unet": "diffusion decoder", **({"verifier": "verifier"} if marks else {})}
    for component, name in needed.items():
        if component not in model.manifest.components:
            raise CheckpointError(
                f"this model has no {name}, so it cannot check captions; see the page on checking "
                "captions"
            )


def verify_image(
    model: VLV, source: Source, caption: str, false_alarm_rate: float = FALSE_ALARM_RATE
) -> Verified | Refused:
    """The marks of one caption; an image that cannot be decoded is refused with its reason."""
    try:
        image = source.picture()
    except ImageError as error:
        return Refused(source.name, error.reason, str(error))
    z, (in_distribution,) = model.encode_and_detect(image)
    marks = model.verify(
        image, caption, z=z, in_distribution=in_distribution, false_alarm_rate=false_alarm_rate
    )
    return Verified(source.name, caption, tuple(marks), in_distribution)


def check_captions(
    model: VLV, pairs: Iterable[tuple[T, Captioned | Refused]], settings: CheckSettings
) -> Iterator[tuple[T, Captioned | Refused]]:
    """Captions with what `settings` asks for done to them, each after its source, in order;
    refusals pass through.
    """
    for source, one in pairs:
        if isinstance(one, Refused) or isinstance(source, Refused):
            yield source, one
            continue
        try:
            image = source.picture()
        except ImageError as error:  # the file has gone since it was captioned
            yield source, Refused(one.name, error.reason, str(error))
            continue
        yield source, check(model, image, one, settings)


def check(model: VLV, image: Image.Image, one: Captioned, settings: CheckSettings) -> Captioned:
    """The captions of one image with what `settings` asks for done to them."""
    if settings.best_of:
        # The best of many alone: the others were only tried.
        best = 0 if one.in_distribution is False else _best(model, image, one.captions)
        ended, tokens = one.ends[best]
        one = replace(
            one,
            caption=one.captions[best],
            ended=ended,
            tokens=tokens,
            others=(),
            other_ends=(),
        )
    captions = list(one.captions)
    if settings.drop_unsupported:
        captions = [
            " ".join(kept.text for kept in _kept(_marks(model, image, one, text, settings)))
            for text in captions
        ]
    caption, *others = captions
    marks = tuple(_marks(model, image, one, caption, settings)) if settings.verify else None
    return replace(one, caption=caption, others=tuple(others), sentences=marks)


def _best(model: VLV, image: Image.Image, captions: Sequence[str]) -> int:
    scores = Witness(model, image, VerifySettings()).score(list(captions))
    return scores.index(max(scores))


def _marks(
    model: VLV, image: Image.Image, one: Captioned, caption: str, settings: CheckSettings
) -> list[SentenceSupport]:
    return model.verify(
        image,
        caption,
        in_distribution=one.in_distribution,
        false_alarm_rate=settings.false_alarm_rate,
    )


def _kept(sentences: list[SentenceSupport]) -> list[SentenceSupport]:
    kept = [one for one in sentences if one.verdict != "unsupported"]
    return kept or sorted(sentences, key=lambda one: -(one.score or 0.0))[:1]


def why(caption: str, sentence: SentenceSupport) -> str:
    """Why the sentence cannot be judged, or what would explain the picture better than it does, in
    words; empty if nothing does.
    """
    if sentence.reason is not None:
        return sentence.reason
    better = sentence.better
    if better is None:
        return ""
    falls = f"error falls by {better.gain:.1%}"
    if not better.word:
        return f"nothing in its place ({falls})"
    return f"“{better.word}” for “{caption[better.start : better.end]}” ({falls})"
