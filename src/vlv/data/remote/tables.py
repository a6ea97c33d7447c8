"""What the end of a parquet file says, read without the rest of the file."""

from typing import Any

from vlv.data.remote.locations import RemoteFile, SetFile
from vlv.data.remote.store import attempt, filesystem
from vlv.data.tables import import_pyarrow
from vlv.errors import DatasetError


def footer(file: SetFile) -> tuple[Any, list[str]]:
    """Pyarrow's metadata of a parquet file, and the names of its columns.

    Raises:
        DatasetError: it cannot be read, or is no parquet file.
        ConfigError: what reads it is not installed.
    """
    pa, pq = import_pyarrow()

    def read(opened: Any) -> tuple[Any, list[str]]:
        with pq.ParquetFile(opened) as table:
            return table.metadata, table.schema_arrow.names

    try:
        if not isinstance(file, RemoteFile):
            return read(file)
        system, path = filesystem(file.url)

        def ask() -> tuple[Any, list[str]] | Exception:
            with system.open(path, "rb") as opened:
                try:
                    return read(opened)
                except pa.ArrowInvalid as error:  # another reading would not mend it
                    return error

        found = attempt(file.url, ask)
        if isinstance(found, Exception):
            raise found
        return found
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{file} is damaged, or is no parquet file ({error})") from error
