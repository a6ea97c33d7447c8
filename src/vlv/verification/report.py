"""A page that shows a check: the picture, what the decoder draws from it and from the caption, what
the caption leaves out, and the sentences coloured by support. One file, no scripts, no network.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image, ImageFilter

from vlv.inference.reconstruction import DrawSettings
from vlv.models.preprocessing import decoder_pixels
from vlv.models.vlv import VLVModel
from vlv.verification.verifier import SentenceSupport
from vlv.verification.verify import Verified, why

# Pictures are shown at least this wide, in pixels.
_SHOWN = 224
# Drawn with as many seeds: what differs between them by chance is averaged out of the map.
_SEEDS = 4
_CLASSES = {"supported": "yes", "unsupported": "no", "cannot_judge": "unjudged"}
_ANSWERS = {"supported": "yes", "unsupported": "no", "cannot_judge": "cannot judge"}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; max-width: 14rem; } figcaption { font-size: 0.85rem; }
img { width: 100%; image-rendering: auto; border: 1px solid #8886; }
.yes { background: #009e7326; border-bottom: 2px solid #009e73; }
.no { background: #d55e0033; border-bottom: 2px dashed #d55e00; }
.unjudged { background: #8883; border-bottom: 2px dotted #888; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.7rem 0.3rem 0;
  border-bottom: 1px solid #8886; }
""".strip()


@dataclass(frozen=True)
class Shown:
    """A check and its pictures: drawn from embeddings, from the caption, and where they differ."""

    checked: Verified
    image: Image.Image
    from_embeddings: Image.Image
    from_caption: Image.Image
    omissions: Image.Image


def show(model: VLVModel, image: Image.Image, checked: Verified, settings: DrawSettings) -> Shown:
    """Draw what the page shows of one check."""
    seeds = range(settings.seed, settings.seed + _SEEDS)
    drawing = {**settings.drawing(_SEEDS), "seeds": list(seeds)}
    z = model.encode(image).expand(_SEEDS, -1, -1)
    own = model.reconstruct(z, **drawing).images
    told = model.draw([checked.caption] * _SEEDS, **drawing).images
    seen = Image.fromarray(decoder_pixels(image, own[0].width))
    return Shown(checked, seen, own[0], told[0], omission_map(own, told))


def omission_map(
    from_embeddings: Sequence[Image.Image], from_caption: Sequence[Image.Image]
) -> Image.Image:
    """Where pictures from the embeddings and from the caption disagree, seed by seed: what the
    embeddings hold and the words do not say, or say wrongly. Bright is more; of 255, the mean
    absolute difference times two.
    """
    gaps = [
        np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean(2)
        for a, b in zip(from_embeddings, from_caption, strict=True)
    ]
    heat = Image.fromarray((2 * np.mean(gaps, 0)).clip(0, 255).astype(np.uint8))
    return heat.filter(ImageFilter.GaussianBlur(heat.width / 64))


def report_page(shown: Sequence[Shown], false_alarm_rate: float) -> str:
    """The page as HTML."""
    parts = "\n".join(_section(one) for one in shown)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Captions checked</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        "<h1>Captions checked by the decoder</h1>\n"
        f"<p>About {false_alarm_rate:.0%} of true sentences are marked as unsupported, of captions "
        "like those that the model was trained on. What is unlike them cannot be judged.</p>\n"
        f"{parts}\n</body>\n</html>\n"
    )


def _section(one: Shown) -> str:
    pictures = [
        ("image", one.image),
        ("drawn from its embeddings", one.from_embeddings),
        ("drawn from the caption", one.from_caption),
        ("where the two differ", one.omissions),
    ]
    figures = "\n".join(
        f'<figure><img alt="{label}" src="{_inline(picture)}"><figcaption>{label}</figcaption>'
        "</figure>"
        for label, picture in pictures
    )
    marked = " ".join(
        f'<span class="{_CLASSES[s.verdict]}">{escape(s.text)}</span>'
        for s in one.checked.sentences
    )
    rows = "\n".join(_row(one.checked, s) for s in one.checked.sentences)
    return (
        f"<section>\n<h2>{escape(one.checked.name)}</h2>\n"
        f'<div class="pictures">\n{figures}\n</div>\n<p>{marked}</p>\n<table>\n'
        "<tr><th>Sentence</th><th>Supported</th><th>Probability</th>"
        "<th>What would explain the picture better, or why it cannot be judged</th></tr>\n"
        f"{rows}\n</table>\n</section>"
    )


def _row(checked: Verified, sentence: SentenceSupport) -> str:
    probability = "" if sentence.probability is None else f"{sentence.probability:.0%}"
    return (
        f"<tr><td>{escape(sentence.text)}</td><td>{_ANSWERS[sentence.verdict]}</td>"
        f"<td>{probability}</td>"
        f"<td>{escape(why(checked.caption, sentence))}</td></tr>"
    )


def _inline(picture: Image.Image) -> str:
    scale = max(1, -(-_SHOWN // picture.width))
    shown = picture.resize(
        (picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC
    )
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
