"""Where generated images are written: never over their input, and never in part."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def picture_targets(names: Sequence[str], out: Path | None, *, one: bool) -> list[Path]:
    """The file of each image; no two are the same."""
    if one and out is not None and out.suffix and not out.is_dir():
        check_picture(out)
        return [out]
    if out is not None and out.suffix.lower() in _PICTURES:
        raise ConfigError(f"{out} is one file for {len(names)} images; name a folder with --out")
    taken: dict[str, int] = {}
    targets = []
    for name in names:
        stem = Path(name).stem
        taken[stem] = taken.get(stem, 0) + 1
        number = f"-{taken[stem]}" if taken[stem] > 1 else ""
        targets.append((out or Path()) / f"{stem}-reconstruction{number}.png")
    return targets


def check_picture(out: Path) -> None:
    """Raises ConfigError unless the name ends like that of an image."""
    if out.suffix.lower() not in _PICTURES:
        raise ConfigError(
            f"{out} is not a name of an image file; it must end in {', '.join(_PICTURES)}"
        )


def keep_inputs(inputs: Sequence[Path], targets: Sequence[Path]) -> None:
    """Raises ConfigError if an image would be written over its input."""
    originals = {os.path.realpath(path) for path in inputs}
    for target in targets:
        if os.path.realpath(target) in originals:
            raise ConfigError(f"{target} would replace the original; choose another --out")


def keep_existing(targets: Sequence[Path], overwrite: bool) -> None:
    """Raises ConfigError if a file would be replaced without --overwrite."""
    existing = [] if overwrite else [target for target in targets if os.path.lexists(target)]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ConfigError(
            f"{existing[0]}{more} exists already; choose another --out or replace it with "
            "--overwrite"
        )


def save_picture(picture: "Image.Image", target: Path) -> None:
    """Write an image in the format of its name. The file is complete or absent."""
    from vlv.files import atomic_file

    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as unfinished:
        # The name of the unfinished file does not show the format.
        picture.save(unfinished, _format_of(target))


def _format_of(target: Path) -> str:
    return {".png": "PNG", ".webp": "WEBP"}.get(target.suffix.lower(), "JPEG")
