"""A page that shows checks of captions: the image, what the decoder draws from it and from the
caption, what the caption omits, and the sentences coloured by their verdicts. One file, no scripts,
no network.
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
from vlv.verification.verdicts import Verified, why

# Pictures are shown at least this wide, in pixels.
_WIDTH = 224
# Drawn with as many seeds, over which the omission map averages out differences by chance.
_SEEDS = 4
_DRAWING: dict[str, Any] = {"guidance_scale": 2.0, "num_inference_steps": 20, "scheduler": "dpm++"}
_VERDICTS = {
    "supported": "supported",
    "unsupported": "unsupported",
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
