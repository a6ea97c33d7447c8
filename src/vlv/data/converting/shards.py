"""The files of one shard in each layout: all of them are there, or none that counts."""

from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from vlv.data.folder_metadata import METADATA
from vlv.data.samples import Sample
from vlv.data.shards import ShardWriter
from vlv.data.tables import TableWriter
from vlv.files import atomic_file, sync, write_text
from vlv.text import json_line


class _DiscardedError(Exception):
    """Ends a shard that is not to be written."""


class Shard(ABC):
    """Some consecutive samples of a part. `close` writes it; `discard` leaves nothing that counts.
    Texts of samples are lines.

    folder: of the part. scratch: a folder of the job. number: of the shard in its part.
    """

    def __init__(self, folder: Path, scratch: Path, number: int) -> None:
        self.folder, self.scratch, self.number = folder, scratch, number
        self.images = self.bytes = 0
        self._files = ExitStack()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        self._add(sample)
        self.images += 1
        self.bytes += len(sample.image)

    @abstractmethod
    def _add(self, sample: Sample) -> None: ...

    def close(self) -> None:
        """Bring it to the disk, under its name."""
        self._files.close()

    def discard(self) -> None:
        """Leave it out."""
        with suppress(_DiscardedError), self._files:
            raise _DiscardedError


class _OneFile(Shard):
    """A shard that is one file."""

    suffix: str
    writer: type[ShardWriter] | type[TableWriter]

    def __init__(self, folder: Path, scratch: Path, number: int) -> None:
        super().__init__(folder, scratch, number)
        unfinished = self._files.enter_context(atomic_file(folder / f"{number:05d}.{self.suffix}"))
        self._writer: Any = self._files.enter_context(self.writer(unfinished, uncaptioned=True))

    def _add(self, sample: Sample) -> None:
        self._writer.add(sample)


class TarShard(_OneFile):
    """`00000.tar` and `00000_stats.json`."""

    suffix, writer = "tar", ShardWriter

    def close(self) -> None:
        """The stats come last: they mark the shard as complete."""
        super().close()
        write_text(self.folder / f"{self.number:05d}_stats.json", self._writer.stats())


class TableShard(_OneFile):
    """`00000.parquet`."""

    suffix, writer = "parquet", TableWriter


class FolderShard(Shard):
    """Images with caption files beside them; their lines of `metadata.jsonl` wait in `scratch`."""

    def __init__(self, folder: Path, scratch: Path, number: int) -> None:
        super().__init__(folder, scratch, number)
        self._lines: list[str] = []
        self._written: list[Path] = []

    def _add(self, sample: Sample) -> None:
        image = self.folder / sample.file_name
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(sample.image)
        self._written.append(image)
        if sample.texts:
            captions = image.with_name(f"{image.name.removesuffix(sample.extension)}.txt")
            captions.write_text("".join(f"{text}\n" for text in sample.texts), encoding="utf-8")
            self._written.append(captions)
        # Of a table with `caption` and `text`, the second is no caption; names follow the files.
        meta = {f"source_{k}" if k == "text" else k: value for k, value in sample.meta.items()}
        text = {"text": sample.texts[0]} if sample.texts else {}
        self._lines.append(json_line({**meta, "file_name": sample.file_name, **text}))

    def close(self) -> None:
        """Files first, then the lines that make them count."""
        for path in self._written:
            sync(path)
        for folder in {path.parent for path in self._written}:
            sync(folder)
        lines = _lines_file(self.scratch, self.number)
        write_text(lines, "".join(self._lines))


def finish_folder(folder: Path, scratch: Path, shards: int) -> None:
    """Write `metadata.jsonl` out of the lines of all shards, which stay: the process may be killed
    before the job is recorded as done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / METADATA) as unfinished, unfinished.open("wb") as out:
        for number in range(shards):
            out.write(_lines_file(scratch, number).read_bytes())


def _lines_file(scratch: Path, number: int) -> Path:
    return scratch / f"{number:05d}.jsonl"


SHARDS: dict[str, type[Shard]] = {
    "folder": FolderShard,
    "webdataset": TarShard,
    "parquet": TableShard,
}
