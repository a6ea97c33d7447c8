"""Small sets of real encoded images, some of them unusable, in the three layouts on disk."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from vlv.data.samples import Sample
from vlv.data.sets import write_set

COUNT = 24
# Numbers of the samples that will not decode, and why.
REFUSED = {3: "corrupt", 4: "unknown-format", 11: "empty"}


def encoded(number: int) -> bytes:
    """An oblong JPEG or PNG that no other number gives."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    size = (96, 72) if number % 2 else (70, 110)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.save(file, "JPEG" if number % 3 else "PNG")
    return file.getvalue()


def sample(number: int) -> Sample:
    image = encoded(number)
    if REFUSED.get(number) == "corrupt":
        middle = len(image) // 2
        image = image[:20] + bytes(middle) + image[20 + middle :]
    elif number in REFUSED:
        image = b"" if REFUSED[number] == "empty" else b"no image at all"
    caption = f"Picture number {number}, in colours that were drawn by lot."
    return Sample(f"{number:05d}", image, ".jpg" if number % 3 else ".png", caption)


def write_images(folder: Path, format: str, count: int = COUNT) -> Path:
    """A set of `count` samples in `folder`."""
    write_set(map(sample, range(count)), folder, format=format, shard_size=10)
    return folder
