"""Images with their captions as a new set: parquet files, or shards as img2dataset writes them."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from vlv.data.images import EXTENSIONS, extension_of
from vlv.data.samples import Sample
from vlv.data.sets import holds_only, write_set
from vlv.errors import ConfigError
from vlv.files import atomic_folder
from vlv.inference.inputs import Input


def check_new_set(folder: Path, format: str, *, overwrite: bool) -> None:
    """Raise ConfigError where `write_captions` would have to replace what it must not."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder for the set")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"{folder} exists already; choose another name or give --overwrite")
    if not holds_only(folder, format):
        raise ConfigError(
            f"{folder} holds something else than a {format} set, which --overwrite would remove; "
            "choose another name"
        )


def write_captions(
    captioned: Iterable[tuple[Input, list[str]]], folder: Path, format: str, *, overwrite: bool
) -> int:
    """Write images and captions, the best caption first; `folder` is complete or absent.

    Returns how many there are; if there are none, nothing is written. The fields of a sample are
    those it had, `file_name` (what it was read from) and, where there are several captions,
    `texts`.
    """
    samples = (_sample(number, *one) for number, one in enumerate(captioned))
    first = next(samples, None)
    if first is None:
        return 0
    with atomic_folder(folder, overwrite=overwrite) as unfinished:
        return write_set(chain([first], samples), unfinished, format=format)


def _sample(number: int, image: Input, texts: list[str]) -> Sample:
    data = image.data()
    meta = {**image.meta, "file_name": str(image.path)}
    if len(texts) > 1:
        meta["texts"] = texts
    suffix = image.path.suffix.lower()
    extension = suffix if suffix in EXTENSIONS else extension_of(data)
    # Numbers as img2dataset gives them: a key of a shard may hold no dot.
    return Sample(f"{number:09d}", data, extension, texts[0], meta)
