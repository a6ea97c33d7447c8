"""Parquet files of images and captions, as the `datasets` library reads and writes them.

Columns: `image`, a struct of `bytes` and `path`; `caption`, text; `meta`, JSON text. Needs pyarrow
(the extra `data`).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from vlv.data.images import extension_of
from vlv.data.samples import (
    Sample,
    caption_line,
    in_shards,
    one_of_several,
    parse_caption,
    parse_object,
)
from vlv.data.shards import SHARD_SIZE
from vlv.data.stored_pixels import cell_of
from vlv.errors import ConfigError, DatasetError
from vlv.files import atomic_file

if TYPE_CHECKING:
    import pyarrow

# Names of the column of images; img2dataset takes that of their format.
_IMAGE_COLUMNS = ("image", "jpg", "png", "webp")
# Rows that are written and read at once; they are in memory with their images.
_ROWS = 128
# Of images, bytes that are written at once: Arrow's columns of structs end at 2 GB.
_BYTES = 64_000_000

# Makes `datasets` decode the image column, as in its own files.
_FEATURES = {
    "image": {"_type": "Image"},
    "caption": {"dtype": "string", "_type": "Value"},
    "meta": {"dtype": "string", "_type": "Value"},
}


def write_tables(samples: Iterable[Sample], folder: Path, *, shard_size: int = SHARD_SIZE) -> int:
    """Write numbered parquet files; returns the number of samples."""
    total = 0
    for number, shard in enumerate(in_shards(samples, shard_size)):
        with (
            atomic_file(folder / f"{number:05d}.parquet") as unfinished,
            TableWriter(unfinished) as writer,
        ):
            for sample in shard:
                writer.add(sample)
                total += 1
    return total


class TableWriter:
    """Writes one parquet file, sample by sample; use it in a `with`.

    uncaptioned: whether samples may have no caption; trainers refuse those.
    """

    def __init__(self, path: Path, *, uncaptioned: bool = False) -> None:
        self._uncaptioned = uncaptioned
        pa, pq = import_pyarrow()
        schema = pa.schema(
            [
                ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                ("caption", pa.string()),
                ("meta", pa.string()),
            ],
            metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
        )
        self._table = partial(pa.Table.from_pylist, schema=schema)
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._write()
        finally:
            self._writer.close()

    def add(self, sample: Sample) -> None:
        """Add a sample. Raises DatasetError if it has no caption."""
        bare = self._uncaptioned and not sample.texts
        self._rows.append(_row(sample, None if bare else caption_line(sample)))
        self._bytes += len(sample.image)
        if len(self._rows) == _ROWS or self._bytes >= _BYTES:
            self._write()

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(self._table(self._rows))
        self._rows, self._bytes = [], 0


def _row(sample: Sample, caption: str | None) -> dict[str, Any]:
    return {
        "image": {"bytes": sample.image, "path": sample.file_name},
        "caption": caption,
        "meta": json.dumps(sample.meta, ensure_ascii=False),
    }


def read_tables(paths: Iterable[Path]) -> Iterator[Sample]:
    """The samples of parquet files, row by row.

    The image column holds bytes, structs of bytes and path, or pixels as the paper's authors store
    them (`vlv.data.stored_pixels`); the caption column holds a text or a list of texts.
    `columns_of` finds both.

    Raises:
        DatasetError: a file is damaged, or has no such columns, or an image has no bytes.
        ConfigError: pyarrow is not installed.
    """
    pa, pq = import_pyarrow()
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                found = columns_of(path, file.schema_arrow.names)
                columns = found.names + (
                    ["meta"] if holds_text(pa, file.schema_arrow, "meta") else []
                )
                row = 0
                for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                    for index in range(batch.num_rows):
                        yield sample_of_row(path, row, batch, index, found)
                        row += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DatasetError(f"{path} is damaged, or is no parquet file ({error})") from error


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold images and, if there are any, captions."""

    image: str
    caption: str | None

    @property
    def names(self) -> list[str]:
        """Both, or the only one."""
        return [self.image, *([self.caption] if self.caption else [])]


def columns_of(path: Path, names: Sequence[str]) -> Columns:
    """The columns of a table with these names. Raises DatasetError without images."""
    image = image_column(names)
    if image is None:
        raise DatasetError(f"{path} has no column 'image'; its columns are {', '.join(names)}")
    return Columns(image, next((name for name in ("caption", "text") if name in names), None))


def image_column(names: Sequence[str]) -> str | None:
    """The column of images among these, if any."""
    return next((name for name in _IMAGE_COLUMNS if name in names), None)


def holds_text(pa: Any, schema: Any, name: str) -> bool:
    """Whether a column holds text; a `meta` that others wrote can have any type."""
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def sample_of_row(path: Path, row: int, batch: Any, index: int, columns: Columns) -> Sample:
    """The sample of a row of a file, which is row `index` of a table or batch in memory.

    Raises DatasetError.
    """
    pa, _ = import_pyarrow()
    where = f"row {row} of {path}"
    try:
        data, name, extension = cell_of(pa, batch.column(columns.image)[index])
    except ValueError as error:
        raise DatasetError(f"{where} holds {error}; write the image as a file there") from error
    if not isinstance(data, bytes):
        raise DatasetError(f"{where} holds no image bytes; embed the images in the file")
    file_name = PurePosixPath(name or "")
    if not file_name.name:
        file_name = PurePosixPath(f"{path.stem}-{row:06d}")
    caption = columns.caption
    try:
        meta = batch.column("meta")[index].as_py() if "meta" in batch.schema.names else None
        cell = batch.column(caption)[index].as_py() if caption else None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{where} holds text that is not UTF-8; write it as UTF-8") from error
    text, texts = one_of_several(cell)
    return Sample(
        key=file_name.with_suffix("").as_posix(),
        image=data,
        extension=extension or file_name.suffix or extension_of(data),
        caption=parse_caption(text, where),
        meta={**parse_object(meta or "{}", f"meta in {where}"), **texts},
    )


def import_pyarrow() -> "tuple[pyarrow, Any]":
    """The two modules of pyarrow. Raises ConfigError, which names the extra, without them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("parquet needs pyarrow; install it with: pip install 'vlv[data]'") from (
            error
        )
    return pyarrow, pyarrow.parquet
