"""A hash of weights on the disk by which changed ones are noticed.

No cheaper identity is at hand: times of files change with a copy, sizes do not when weights are
trained, and `vlv.json` says nothing of contents. Training changes tensors as a whole, so of large
files a sample of the contents is enough, which takes parts of a second.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

# Files up to this size are hashed whole; of larger ones so many blocks, evenly spread.
_HASHED_WHOLE, _BLOCKS, _BLOCK = 64_000_000, 64, 262_144


def content_hash(folder: Path, files: Iterable[Path], base: str = "") -> str:
    """A hash of names in `folder`, sizes and contents, of large files a sample of the contents.
    base: the hash of other weights that belong to them.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            for start, length in _hashed_spans(size):
                file.seek(start)
                digest.update(file.read(length))
    digest.update(base.encode())
    return digest.hexdigest()


def _hashed_spans(size: int) -> Iterator[tuple[int, int]]:
    if size <= _HASHED_WHOLE:
        yield 0, size
        return
    for number in range(_BLOCKS):
        yield math.floor(number * (size - _BLOCK) / (_BLOCKS - 1)), _BLOCK
