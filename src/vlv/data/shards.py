"""WebDataset shards as img2dataset writes them: `00000.tar` with images, `.txt` and `.json`.

`00000_stats.json` beside a shard says that it is complete, and the number of its samples. The
reader is our own: the webdataset library unpickles members by their extension and runs `pipe:`
addresses as shell commands, which a shard of unknown origin must not be able to cause.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Self

from vlv.data.images import EXTENSIONS, MAX_FILE_BYTES
from vlv.data.samples import (
    Sample,
    caption_line,
    in_shards,
    one_of_several,
    parse_caption,
    parse_object,
    parse_text,
)
from vlv.data.tars import Gap, Member, read_members
from vlv.errors import DatasetError
from vlv.files import atomic_file, write_text

# img2dataset's default; its keys have five digits for the shard and four for the place in it.
SHARD_SIZE = 10_000

# Members that only a reader that runs code would need.
_PICKLED = (".pkl", ".pickle", ".pyd", ".pt", ".pth", ".ckpt")


def write_shards(samples: Iterable[Sample], folder: Path, *, shard_size: int = SHARD_SIZE) -> int:
    """Write numbered shards and their stats; returns the number of samples.

    The same samples give the same bytes: members have no times and no owner.
    """
    total = 0
    for number, shard in enumerate(in_shards(samples, shard_size)):
        with (
            atomic_file(folder / f"{number:05d}.tar") as unfinished,
            ShardWriter(unfinished) as writer,
        ):
            for sample in shard:
                writer.add(sample)
        write_text(folder / f"{number:05d}_stats.json", writer.stats())
        total += writer.count
    return total


class ShardWriter:
    """Writes one shard, sample by sample; use it in a `with`.

    uncaptioned: whether samples may have no caption; trainers refuse those.
    """

    def __init__(self, path: Path, *, uncaptioned: bool = False) -> None:
        self.count = 0
        self._uncaptioned = uncaptioned
        self._tar = tarfile.TarFile(path, "w", format=tarfile.PAX_FORMAT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def add(self, sample: Sample) -> None:
        """Add a sample. Raises DatasetError if its key is none that readers accept, or it has no
        caption where one is required.
        """
        if "." in PurePosixPath(sample.key).name:
            raise DatasetError(
                f"the key {sample.key} has a dot, where readers of shards end it; rename it"
            )
        if "\\" in sample.key:
            raise DatasetError(
                f"the key {sample.key} has a backslash, which readers of shards refuse; rename it"
            )
        line = None if self._uncaptioned and not sample.texts else caption_line(sample)
        about = {**sample.meta, "key": sample.key, "caption": line, "status": "success"}
        self._add(sample.file_name, sample.image)
        if line is not None:
            self._add(sample.key + ".txt", line.encode())
        self._add(sample.key + ".json", json.dumps(about, ensure_ascii=False).encode())
        self.count += 1

    def stats(self) -> str:
        """The file that img2dataset writes beside a complete shard."""
        stats = {
            "count": self.count,
            "successes": self.count,
            "failed_to_download": 0,
            "failed_to_resize": 0,
            "status_dict": {"success": self.count},
        }
        return json.dumps(stats, indent=4) + "\n"

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


def read_shards(paths: Iterable[Path]) -> Iterator[Sample]:
    """The samples of shards, shard by shard, in their order.

    A sample is a run of members with the same name up to the first dot. The caption is the `.txt`
    member, or `caption` in the `.json` member, whose content becomes `meta`. Hidden members, such
    as the `._` files of macOS, are skipped.

    Raises:
        DatasetError: a shard is damaged or incomplete, a sample has no image, or a member is not
            allowed: a link, a device, a path that leaves the shard, a pickle, or a file larger
            than any image may be.
    """
    for path in paths:
        count = 0
        for key, members in _groups(path):
            yield sample_of_members(path, key, members)
            count += 1
        check_complete(path, count)


def _groups(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, extension -> content) of consecutive members."""
    key: str | None = None
    members: dict[str, bytes] = {}
    for name, data in _members(path):
        extension, this_key = extension_and_key(name)
        if this_key is None:
            continue
        if this_key != key:
            if key is not None:
                yield key, members
            key, members = this_key, {}
        members[extension] = data
    if key is not None:
        yield key, members


def extension_and_key(name: str) -> tuple[str, str | None]:
    """The extension of a member, which begins at the first dot of its name, and before the dot the
    key of its sample. Hidden members have no key.
    """
    path = PurePosixPath(name)
    stem, dot, extension = path.name.partition(".")
    return (dot + extension).lower(), path.with_name(stem).as_posix() if stem else None


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of a tar archive."""
    with open(path, "rb") as file:
        for member in plain_members(path):
            file.seek(member.start)
            yield member.name, file.read(member.size)


def plain_members(path: Path, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """The files of an archive, or of a part of it.

    Raises:
        DatasetError: it is damaged, or holds a member that is not allowed.
    """
    for member in read_members(path, start, end):
        if isinstance(member, Gap):
            raise DatasetError(
                f"the shard {path} is damaged at byte {member.offset}; samples there are lost; "
                "fetch or write it again"
            )
        if not member.is_folder:
            if problem := problem_of(member):
                raise DatasetError(f"{member.name!r} in the shard {path} {problem}; remove it")
            yield member


def problem_of(member: Member) -> str | None:
    """Why a member is not allowed; None if it is."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        return "has a path that leaves the shard"
    if name.suffix.lower() in _PICKLED:
        return "is a pickle, which could run code"
    if member.size > MAX_FILE_BYTES:
        return f"has {member.size} bytes, more than an image may have"
    return member.problem


def sample_of_members(path: Path, key: str, members: dict[str, bytes]) -> Sample:
    """The sample of the given members, by extension. Raises DatasetError."""
    where = f"in the shard {path}"
    extension = next((name for name in members if name in EXTENSIONS), None)
    if extension is None:
        raise DatasetError(f"the sample {key} {where} has no image ({', '.join(EXTENSIONS)})")
    meta: dict[str, Any] = {}
    if ".json" in members:
        meta = parse_object(members[".json"], f"{key}.json {where}")
    first, several = one_of_several(meta.get("caption"))
    caption = parse_caption(first, f"{key}.json {where}")
    meta |= several
    if ".txt" in members:
        # An empty caption file does not count.
        caption = parse_text(members[".txt"], f"{key}.txt {where}") or caption
    return Sample(key, members[extension], extension, caption, meta)


def stats_beside(path: Path) -> dict[str, Any] | None:
    """The stats of a shard on disk, if there are some. Raises DatasetError if they are damaged."""
    stats = path.with_name(f"{path.stem}_stats.json")
    return parse_object(stats.read_bytes(), str(stats)) if stats.is_file() else None


def check_complete(path: Path, count: int, stats: dict[str, Any] | None = None) -> None:
    """Raise DatasetError for a shard with another number of samples than in its stats.

    stats: of a shard whose stats are not beside `path`.
    """
    stats = stats_beside(path) if stats is None else stats
    if stats is None:
        return
    expected = stats.get("successes")
    if expected != count:
        raise DatasetError(f"the shard {path} holds {count} samples, its stats say {expected}")
