"""What a command that takes images in every form was given."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.cli.failures import refuse_none

if TYPE_CHECKING:
    from vlv.inference.inputs import Found


def find(
    paths: Sequence[Path] | None,
    patterns: Sequence[str] | None,
    filelist: Path | None,
    recursive: bool,
) -> "Found":
    """The images that the arguments and --glob and --filelist stand for.

    Raises:
        ConfigError: none of them was given.
        DatasetError: they stand for nothing.
    """
    from vlv.errors import ConfigError
    from vlv.inference.inputs import find_inputs

    if not (paths or patterns or filelist):
        raise ConfigError("name images or folders, or give --glob or --filelist")
    found = find_inputs(
        paths or [], patterns=patterns or [], filelist=filelist, recursive=recursive
    )
    if not found.sets:
        listed = [filelist] if filelist else []
        refuse_none(found, [*(paths or []), *map(Path, patterns or []), *listed], recursive)
    return found
