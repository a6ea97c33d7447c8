"""Where pictures are written: never over what they are made of, and never half."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def picture_targets(names: Sequence[str], out: Path | None, *, one: bool) -> list[Path]:
    """Where each picture goes; no two to the same place."""
    if one and out is not None and out.suffix and not out.is_dir():
        check_picture(out)
        return [out]
    if out is not None and out.suffix.lower() in _PICTURES:
        raise ConfigError(f"{out} would hold {len(names)} pictures; name a folder with --out")
    taken: dict[str, int] = {}
    targets = []
    for name in names:
        stem = Path(name).stem
        taken[stem] = taken.get(stem, 0) + 1
        number = f"-{taken[stem]}" if taken[stem] > 1 else ""
        targets.append((out or Path()) / f"{stem}-reconstruction{number}.png")
    return targets


def check_picture(out: Path) -> None:
    """Refuse a name that does not end like a picture's."""
    if out.suffix.lower() not in _PICTURES:
        raise ConfigError(f"{out} is no name of a picture; end it in {', '.join(_PICTURES)}")


def keep_inputs(inputs: Sequence[Path], targets: Sequence[Path]) -> None:
    """No picture is written over an image that it is made of."""
    originals = {os.path.realpath(path) for path in inputs}
    for target in targets:
        if os.path.realpath(target) in originals:
            raise ConfigError(f"{target} would replace the original; choose another --out")


def keep_existing(targets: Sequence[Path], overwrite: bool) -> None:
    """Told before the work: whether a picture would replace a file that nobody gave up."""
    existing = [] if overwrite else [target for target in targets if os.path.lexists(target)]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ConfigError(
            f"{existing[0]}{more} exists already; choose another --out or replace it with "
            "--overwrite"
        )


def save_picture(picture: "Image.Image", target: Path) -> None:
    """Write a picture, which is complete or absent, in the format of its name."""
    from vlv.files import atomic_file

    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as unfinished:
        # The unfinished file's name does not tell the format.
        picture.save(unfinished, _format_of(target))


def _format_of(target: Path) -> str:
    return {".png": "PNG", ".webp": "WEBP"}.get(target.suffix.lower(), "JPEG")
