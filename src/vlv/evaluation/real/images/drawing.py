"""Drawn pictures as files: which are missing, and drawing them, so that a killed run goes on.

`FOLDER/CAPTIONER/guidance-2/IMAGE.png` is a picture. It is complete or absent, and holds what it
was drawn from, so that the picture of another caption is drawn again. Its noise depends on the
image's name and the seed alone: it is the same for all captioners and scales, whichever process
draws.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vlv.data.images import load_image
from vlv.errors import ConfigError, DatasetError, ImageError
from vlv.evaluation.results import Progress
from vlv.files import atomic_file, write_text
from vlv.inference.written import one_at_a_time
from vlv.text import plain_name, printable, read_object, well_formed
from vlv.unfinished import remove_unfinished

_SIDECAR = "drawing.json"
# Of the texts in a picture that say what it was drawn from.
_SOURCE, _CUT, _YES = "vlv-source", "vlv-cut", "yes"
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Shard:
    """One of `count` processes that share the pictures; number counts from 0."""

    number: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`1/4` is the first of four.

        Raises:
            ConfigError: it is not that.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"--shard {printable(text)} is not I/N, such as 1/4 for the first of four processes"
            )
        return cls(int(found[1]) - 1, int(found[2]))


@dataclass(frozen=True)
class Drawing:
    """A picture to be drawn. at: the number of its image. source: what it is drawn from, as text.
    seed: of its noise.
    """

    file: Path
    at: int
    source: str
    seed: int
    guidance: float


def picture_file(folder: Path, captioner: str, guidance: float, name: str, seed: int = 0) -> Path:
    """The place of a picture."""
    scale = f"guidance-{guidance:g}" + (f"-seed-{seed}" if seed else "")
    return folder / plain_name(captioner) / scale / f"{plain_name(name)}.png"


def seed_of(name: str, seed: int) -> int:
    """Of an image's noise."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big")


def check_drawing(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what draws the pictures of a folder, or compare it with who began them.

    Raises:
        ConfigError: they were begun otherwise.
    """
    if (folder / _SIDECAR).is_file():
        begun = begun_by(folder)
        check_begun(folder, dict.fromkeys(begun) | dict(about))
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _SIDECAR, json.dumps(about, indent=2) + "\n")


def begun_by(folder: Path) -> dict[str, Any]:
    """What `check_drawing` wrote."""
    return read_object(folder / _SIDECAR, ConfigError)


def check_begun(folder: Path, about: Mapping[str, Any]) -> None:
    """Compare some of what draws with who began the pictures.

    Raises:
        ConfigError: they were begun otherwise.
    """
    begun, now = begun_by(folder), json.loads(json.dumps(about))
    changed = [name for name in now if begun.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"the pictures in {printable(folder)} were begun with another "
            f"{' and another '.join(changed)}; name another output folder"
        )


@dataclass(frozen=True)
class Held:
    """What a picture says of itself: what it was drawn from, and whether a text encoder cut it."""

    source: str
    cut: bool


def held(file: Path) -> Held | None:
    """What the picture in a file says of itself; None where the file is not there, or not whole."""
    try:
        with open(file, "rb") as data:
            data.seek(-len(_PNG_END), 2)
            if data.read() != _PNG_END:
                return None
        with Image.open(file, formats=["PNG"]) as picture:
            source, cut = picture.info.get(_SOURCE), picture.info.get(_CUT)
    except (OSError, ValueError, SyntaxError):
        return None
    return None if source is None else Held(str(source), cut == _YES)


def missing(drawings: Sequence[Drawing], shard: Shard = Shard()) -> list[Drawing]:
    """Those of a shard whose file is not there, not whole, or drawn from something else."""
    found = []
    for one in drawings:
        if one.at % shard.count == shard.number:
            there = held(one.file)
            if there is None or there.source != _stored(one.source):
                found.append(one)
    return found


def draw_pictures(
    drawings: Sequence[Drawing],
    draw: Callable[[Sequence[Drawing]], Sequence[Image.Image]],
    *,
    batch_size: int,
    stored_size: int | None,
    progress: Progress,
    reads_whole: Callable[[str], bool] = lambda source: True,
) -> None:
    """Draw and store, batch by batch of one guidance scale.

    draw: pictures of some drawings. stored_size: larger pictures are stored so large. reads_whole:
    whether a text encoder reads a whole source.
    """
    batches = _batches(drawings, batch_size)
    for batch in progress(batches, total=len(batches), unit="batch", description="drawing"):
        for one, picture in zip(batch, draw(batch), strict=True):
            _save(one, picture, stored_size, cut=not reads_whole(one.source))


@contextmanager
def one_process(folder: Path, shard: Shard) -> Iterator[None]:
    """One process at a time draws a shard, and removes what a killed one left of it.

    Raises:
        DatasetError: another process draws it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"shard-{shard.number + 1}-of-{shard.count}"
    try:
        with one_at_a_time(folder / name, timeout=0):
            if shard.count == 1:
                for place in {file.parent for file in folder.rglob(".*.tmp")}:
                    remove_unfinished(place)
            yield
    except filelock.Timeout as error:
        raise DatasetError(
            f"another process draws into {printable(folder)}; let it end, or share the work, where "
            "the command has --shard"
        ) from error


def read_picture(file: Path) -> Image.Image:
    """A drawn picture, RGB.

    Raises:
        ImageError: it does not decode.
    """
    try:
        return load_image(file)
    except ImageError as error:
        raise ImageError(
            error.reason,
            f"the drawn picture {printable(file)} cannot be read ({error}); remove it, and the "
            "same command draws it again",
        ) from error


def _batches(drawings: Sequence[Drawing], size: int) -> list[list[Drawing]]:
    of_scale: dict[float, list[Drawing]] = {}
    for one in drawings:
        of_scale.setdefault(one.guidance, []).append(one)
    return [
        some[start : start + size]
        for some in of_scale.values()
        for start in range(0, len(some), size)
    ]


def _save(drawing: Drawing, picture: Image.Image, stored_size: int | None, *, cut: bool) -> None:
    stored = picture.convert("RGB")
    if stored_size is not None and max(stored.size) > stored_size:
        stored.thumbnail((stored_size, stored_size), Image.Resampling.LANCZOS)
    about = PngInfo()
    about.add_itxt(_SOURCE, _stored(drawing.source))
    about.add_itxt(_CUT, _YES if cut else "no")
    drawing.file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(drawing.file) as unfinished:
        stored.save(unfinished, "PNG", pnginfo=about)


def _stored(source: str) -> str:
    """As a picture holds it: UTF-8 without zeros."""
    return well_formed(source).replace("\0", "\ufffd")
