"""Captions checked by the diffusion decoder: a verdict for each sentence, the best of several
captions, unsupported sentences dropped.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from vlv.errors import CheckpointError, ConfigError, ImageError
from vlv.inference.records import Captioned, ImageInput, Refused
from vlv.models.outputs import Caption
from vlv.models.vlv import VLVModel
from vlv.verification.scorer import DenoisingScorer, VerifySettings
from vlv.verification.verdicts import SentenceSupport, Verified
from vlv.verification.verifier import FALSE_ALARM_RATE
from vlv.verification.verify import verify_caption


@dataclass(frozen=True)
class CheckSettings:
    """What is done to captions after they are written.

    best_of: keep only the caption that explains the picture best. Of an out-of-distribution image
    the first caption is kept, since none explains it. drop_unsupported: drop unsupported
    sentences. Sentences that cannot be judged stay, and so does the best-supported sentence, since
    an empty caption says nothing. verify: give the sentences of the first caption verdicts.
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
        """Whether any check is asked for."""
        return self.best_of or self.drop_unsupported or self.verify


def require_parts(model: VLVModel, *, marks: bool) -> None:
    """Raise CheckpointError, before any work, for a model that cannot check captions: it has no
    decoder or, if `marks` (verdicts) are needed, no verifier.
    """
    found = {"diffusion decoder": model.can_draw}
    if marks:
        found["verifier"] = "verifier" in model.manifest.components
    for name, there in found.items():
        if not there:
            raise CheckpointError(
                f"this model has no {name}, so it cannot check captions; see the page on checking "
                "captions"
            )


def verify_image(
    model: VLVModel, image: ImageInput, caption: str, false_alarm_rate: float = FALSE_ALARM_RATE
) -> Verified | Refused:
    """Verdicts on one caption; an image that cannot be decoded is refused with its reason."""
    try:
        picture = image.picture()
    except ImageError as error:
        return Refused(image.name, error.reason, str(error))
    z, (in_distribution,) = model.encode_and_detect(picture)
    verdicts = verify_caption(
        model,
        picture,
        caption,
        z=z,
        in_distribution=in_distribution,
        false_alarm_rate=false_alarm_rate,
    )
    return Verified(image.name, caption, tuple(verdicts), in_distribution)


def check_captions(
    model: VLVModel, results: Iterable[Captioned | Refused], settings: CheckSettings
) -> Iterator[Captioned | Refused]:
    """Captions after the checks that `settings` asks for, in order; refusals pass through."""
    for one in results:
        if isinstance(one, Refused):
            yield one
            continue
        try:
            yield check(model, one, settings)
        except ImageError as error:  # the file is gone since it was captioned
            yield Refused(one.name, error.reason, str(error))


def check(model: VLVModel, one: Captioned, settings: CheckSettings) -> Captioned:
    """The captions of one image after the checks that `settings` asks for.

    Raises:
        ImageError: the image does not decode.
    """
    picture = one.image.picture()
    if settings.best_of:
        best = 0 if one.in_distribution is False else _best(model, picture, one.texts)
        one = replace(one, captions=(one.captions[best],))
    if settings.drop_unsupported:
        supported = (
            replace(caption, text=_supported(_verdicts(model, picture, one, caption, settings)))
            for caption in one.captions
        )
        one = replace(one, captions=tuple(supported))
    if settings.verify:
        verdicts = _verdicts(model, picture, one, one.captions[0], settings)
        one = replace(one, sentences=tuple(verdicts))
    return one


def _best(model: VLVModel, picture: Image.Image, captions: Sequence[str]) -> int:
    scores = DenoisingScorer(model, picture, VerifySettings()).score(list(captions))
    return scores.index(max(scores))


def _verdicts(
    model: VLVModel,
    picture: Image.Image,
    one: Captioned,
    caption: Caption,
    settings: CheckSettings,
) -> list[SentenceSupport]:
    return verify_caption(
        model,
        picture,
        caption.text,
        in_distribution=one.in_distribution,
        false_alarm_rate=settings.false_alarm_rate,
    )


def _supported(sentences: list[SentenceSupport]) -> str:
    """The caption without its unsupported sentences; the best-supported sentence stays."""
    kept = [one for one in sentences if one.verdict != "unsupported"]
    kept = kept or sorted(sentences, key=lambda one: -(one.score or 0.0))[:1]
    return " ".join(one.text for one in kept)
