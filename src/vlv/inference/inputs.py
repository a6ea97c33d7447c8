"""Found images -> what is worked on, each with the path that its result is filed under.

Knows files and sets of images; knows no model.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlv.data.images import MAX_FILE_BYTES, MAX_OWN_PIXELS
from vlv.data.recaptioning import Unusable, recaptioned
from vlv.inference.encoding import Source
from vlv.inference.sources import STANDARD_INPUT, Refused


@dataclass(frozen=True)
class Input(Source):
    """An image that was given by its file, in a set, or on standard input.

    path: that of its file; of an image in a set, its name below the path of the shard or table.
    meta: what its set says of it.
    """

    path: Path = STANDARD_INPUT
    meta: dict[str, Any] = field(default_factory=dict)

    def data(self) -> bytes:
        """The bytes of its file."""
        return self.image if isinstance(self.image, bytes) else self.image.read_bytes()


def inputs_of(
    images: Iterable[Path], sets: Iterable[Path], *, max_pixels: int = MAX_OWN_PIXELS
) -> Iterator[Input | Refused]:
    """The inputs in order, read as they are taken; in a set a sample without a picture is refused.

    Raises:
        ConfigError: what reading a set needs is not installed.
    """
    for path in images:
        if path == STANDARD_INPUT:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
            yield Input("standard input", data, max_pixels=max_pixels)
        else:
            yield Input(str(path), path, path, max_pixels=max_pixels)
    for path in sets:
        for sample in recaptioned(path):
            if isinstance(sample, Unusable):
                yield Refused(str(path / sample.name), sample.reason, sample.message)
            else:
                inside = path / sample.file_name
                yield Input(str(inside), sample.image, inside, sample.meta, max_pixels=max_pixels)
