"""A page that shows checks of captions: a summary, then each image, the worst first, with what the
decoder draws from it and from the caption, what the caption omits, and the sentences coloured by
their verdicts. One file, no scripts, no network; a filter of verdicts works by style alone.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from vlv.html import data_uri, render
from vlv.models.preprocessing import decoder_pixels
from vlv.models.vlv import VLVModel
from vlv.text import counted
from vlv.verification.verdicts import SentenceSupport, Verdict, Verified

# Pictures are shown at least this wide, in pixels.
_WIDTH = 224
# Drawn with as many seeds, over which the omission map averages out differences by chance.
_SEEDS = 4
_DRAWING: dict[str, Any] = {"guidance_scale": 2.0, "num_inference_steps": 20, "scheduler": "dpm++"}
_VERDICTS: dict[Verdict, str] = {
    "unsupported": "unsupported",
    "supported": "supported",
    "cannot_judge": "cannot judge",
}


@dataclass(frozen=True)
class Shown:
    """A check and its pictures: drawn from embeddings, from the caption, and where they differ."""

    checked: Verified
    image: Image.Image
    from_embeddings: Image.Image
    from_caption: Image.Image
    omissions: Image.Image

    def count(self, verdict: Verdict) -> int:
        """How many sentences have a verdict."""
        return sum(one.verdict == verdict for one in self.checked.sentences)

    @property
    def lowest(self) -> float | None:
        """The smallest probability of a sentence to be true; None where none was judged."""
        judged = [x.probability for x in self.checked.sentences if x.probability is not None]
        return min(judged, default=None)


def show(model: VLVModel, image: Image.Image, checked: Verified) -> Shown:
    """Draw what the page shows of one check."""
    z = model.encode(image).expand(_SEEDS, -1, -1)
    seeds = list(range(_SEEDS))
    own = model.reconstruct(z, seeds=seeds, **_DRAWING).images
    from_caption = model.draw([checked.caption] * _SEEDS, seeds=seeds, **_DRAWING).images
    return Shown(
        checked,
        Image.fromarray(decoder_pixels(image, own[0].width)),
        own[0],
        from_caption[0],
        omission_map(own, from_caption),
    )


def omission_map(
    from_embeddings: Sequence[Image.Image], from_caption: Sequence[Image.Image]
) -> Image.Image:
    """Where pictures from the embeddings and from the caption differ, seed by seed: what the
    embeddings contain and the words omit or get wrong. Bright is more: the mean absolute difference
    times two, at most 255.
    """
    gaps = [
        np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean(2)
        for a, b in zip(from_embeddings, from_caption, strict=True)
    ]
    heat = Image.fromarray((2 * np.mean(gaps, 0)).clip(0, 255).astype(np.uint8))
    return heat.filter(ImageFilter.GaussianBlur(heat.width / 64))


def report_page(shown: Sequence[Shown], false_alarm_rate: float) -> str:
    """The page as HTML: the caption with the least probable sentence first, and those of which
    nothing could be judged last.
    """
    ordered = sorted(shown, key=_badness)
    counts = {name: sum(one.count(name) for one in ordered) for name in _VERDICTS}
    return render(
        "vlv.verification",
        "report.html.j2",
        shown=ordered,
        counts=counts,
        images={name: sum(one.count(name) > 0 for one in ordered) for name in _VERDICTS},
        false_alarm_rate=false_alarm_rate,
        verdicts=_VERDICTS,
        note=note,
        counted=counted,
        embedded=_embedded,
    )


def _badness(one: Shown) -> tuple[bool, float, int]:
    lowest = one.lowest
    return (lowest is None, 1.0 if lowest is None else lowest, -one.count("unsupported"))


def note(caption: str, sentence: SentenceSupport) -> str:
    """What to know of a sentence beside its number: why it cannot be judged, or the word that would
    explain the picture better than one in an unsupported sentence. A supported sentence needs none:
    another word changes next to nothing there.
    """
    better = sentence.better
    if sentence.reason is not None:
        return f"cannot be judged: {sentence.reason}"
    if sentence.supported is not False or better is None:
        return ""
    word = caption[better.start : better.end]
    return f"“{better.word}” fits better than “{word}”" if better.word else "better left out"


def _embedded(picture: Image.Image) -> str:
    scale = max(1, -(-_WIDTH // picture.width))
    size = (picture.width * scale, picture.height * scale)
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG", optimize=True)
    return data_uri("picture.png", buffer.getvalue())
