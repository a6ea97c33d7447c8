"""How the check of a caption is shown: in words, and as a page with pictures.

The page shows the image, what the decoder draws from it and from the caption, what the caption
leaves out, and the sentences coloured by their verdicts. It is one file, with no scripts and no
network. Draws nothing.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from vlv.html import data_uri, render
from vlv.verification.verifier import SentenceSupport

# Pictures are shown at least this wide, in pixels.
_WIDTH = 224
_VERDICTS = {
    "supported": "supported",
    "unsupported": "unsupported",
    "cannot_judge": "cannot judge",
}


@dataclass(frozen=True)
class Shown:
    """A check and its pictures: drawn from embeddings, from the caption, and where they differ."""

    name: str
    caption: str
    sentences: Sequence[SentenceSupport]
    image: Image.Image
    from_embeddings: Image.Image
    from_caption: Image.Image
    omissions: Image.Image


def why(caption: str, sentence: SentenceSupport) -> str:
    """Why the sentence cannot be judged, or what would explain the picture better; empty if nothing
    does.
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
    """The page as HTML."""
    return render(
        "vlv.verification",
        "report.html.j2",
        shown=shown,
        false_alarm_rate=false_alarm_rate,
        verdicts=_VERDICTS,
        why=why,
        embedded=_embedded,
    )


def _embedded(picture: Image.Image) -> str:
    scale = max(1, -(-_WIDTH // picture.width))
    size = (picture.width * scale, picture.height * scale)
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG", optimize=True)
    return data_uri("picture.png", buffer.getvalue())
