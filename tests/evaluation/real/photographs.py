"""Small photographs of skimage, as files with captions."""

import functools
from collections.abc import Mapping
from pathlib import Path

import skimage.data
from PIL import Image

SIDE = 48
CAPTIONS: Mapping[str, tuple[str, ...]] = {
    "astronaut": (
        "A smiling woman in an orange space suit stands before a flag.",
        "An astronaut in an orange suit smiles at the camera.",
    ),
    "chelsea": ("A tabby cat looks to the left.", "A close view of the face of a tabby cat."),
    "coffee": ("A cup of coffee stands on a saucer with a spoon.",),
    "rocket": ("A rocket stands on its launch pad at dusk.",),
    "horse": ("The black shape of a horse on a white ground.",),
    "camera": ("A man looks through a camera on a tripod.",),
}


@functools.cache
def photograph(name: str) -> Image.Image:
    picture = Image.fromarray(getattr(skimage.data, name)())
    return picture.convert("RGB").resize((SIDE, SIDE))


def save_photographs(folder: Path, captions: bool = True) -> Path:
    """Each with its captions in a text file, one a line."""
    folder.mkdir(parents=True)
    for name, texts in CAPTIONS.items():
        photograph(name).save(folder / f"{name}.png")
        if captions:
            (folder / f"{name}.txt").write_text("\n".join(texts) + "\n")
    return folder
