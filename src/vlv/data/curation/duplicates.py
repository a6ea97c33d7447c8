"""The second step on images: duplicates across all shards; of several, the first in order stays.

Exact duplicates have the same pixels. Near duplicates differ in at most `max_distance` of the 256
bits of the perceptual hash and little in their colours (hashes.py). An image is dropped only for an
earlier image that stays, so a chain of small changes does not lose all its links.

Near pairs are found by multi-index hashing: among d + 1 parts of two hashes that differ in at most
d bits, one is equal. DuckDB joins on these parts, a block of images at a time with all that stay
before it, so the memory is bounded and the disk holds what does not fit. What is left of a block is
compared with itself in small groups, so that thousands of images that are all alike do not give
millions of pairs. The result depends on the size of neither. A block is a transaction: a search
that was killed goes on with the next.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vlv.data.curation.hashes import BITS, MAX_COLOUR_DISTANCE, colour_distance
from vlv.data.curation.sandbox import import_duckdb
from vlv.data.tables import import_pyarrow
from vlv.errors import DatasetError
from vlv.files import atomic_file
from vlv.text import printable

if TYPE_CHECKING:
    import duckdb

Block: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Places (N,) of images and their bits (N, 32)."""
Watch = Callable[[Iterable[Block], int], Iterable[Block]]

BLOCK = 250_000
_GROUP = 1_000
_DATABASE = "pictures.duckdb"
_MEMORY = "2GB"
_ROWS = 10_000

_PICTURES = """
CREATE TABLE pictures AS
SELECT CAST(shard AS BIGINT) * 4294967296 + "row" AS place, name, pixels, bits, colours
FROM read_parquet(?, hive_partitioning = false) WHERE reason IS NULL
"""
_EXACT = """
CREATE TABLE found AS SELECT place, original, true AS exact, 0 AS distance FROM (
    SELECT place, MIN(place) OVER (PARTITION BY pixels) AS original FROM pictures
) WHERE place <> original
"""
_COLUMNS = (
    "(part UTINYINT, value UINTEGER, place BIGINT, b0 UBIGINT, b1 UBIGINT, b2 UBIGINT, b3 UBIGINT)"
)
_TABLES = f"CREATE TABLE kept {_COLUMNS}; CREATE TABLE blocks_done (last BIGINT)"
_KEPT_HERE = f"CREATE OR REPLACE TEMP TABLE kept_here {_COLUMNS}"
_LEFT = """
SELECT place, bits FROM pictures ANTI JOIN found USING (place)
WHERE place > (SELECT coalesce(max(last), -1) FROM blocks_done) ORDER BY place
"""
_DISTANCE = " + ".join(f"bit_count(xor(a.b{word}, b.b{word}))" for word in range(4))
_PAIRS = f"""
SELECT place, original, distance, mine.colours, theirs.colours FROM (
    SELECT DISTINCT b.place, a.place AS original, {_DISTANCE} AS distance
    FROM images b JOIN {{earlier}} a ON a.part = b.part AND a.value = b.value
    WHERE a.place < b.place AND {_DISTANCE} <= ?
) JOIN pictures mine USING (place) JOIN pictures theirs ON theirs.place = original
ORDER BY place, original
"""


def find_duplicates(
    records: Path,
    out: Path,
    *,
    max_distance: int | None,
    spill: Path,
    block: int = BLOCK,
    watch: Watch = lambda blocks, total: blocks,
) -> None:
    """Write the duplicates among the images of all records that are not dropped otherwise, or go on
    with a search of the same records that was stopped.

    Args:
        records: the folder of the records.
        out: a parquet file with the columns shard, row, exact, distance, original_shard,
            original_row, original_name, in order of the first two.
        max_distance: of near duplicates, in bits; None looks for exact ones only.
        spill: a folder for what does not fit into the memory, and for what is found so far.
        block: images that are compared at once.
        watch: is given the blocks, as they come, and their number.

    Raises:
        DatasetError: the disk or the memory is full.
    """
    spill.mkdir(parents=True, exist_ok=True)
    duckdb = import_duckdb()
    try:
        with closing(_begun(duckdb, spill, records)) as database:
            if max_distance is not None:
                _add_near(database, max_distance, block, watch)
            _write(database, out)
    except duckdb.Error as error:  # of a full disk by many names
        raise DatasetError(
            f"duplicates cannot be searched in {printable(spill)} ({error}); free some space, or "
            "mend what it says, and start the same command again"
        ) from error
    shutil.rmtree(spill, ignore_errors=True)


def _begun(duckdb: Any, spill: Path, records: Path) -> "duckdb.DuckDBPyConnection":
    """The database of a search: all pictures, exact duplicates, and what blocks have given."""
    path, unfinished = spill / _DATABASE, spill / "unfinished"
    for other in spill.iterdir():
        if not (other.name.startswith(_DATABASE) and path.exists()):  # of a killed process
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    if not path.exists():
        with closing(_connected(duckdb, unfinished, spill)) as database:
            database.execute(_PICTURES, [f"{escape(str(records))}/*.parquet"])
            database.execute(_EXACT)
            database.execute(_TABLES)
        os.replace(unfinished, path)
    return _connected(duckdb, path, spill)


def _connected(duckdb: Any, path: Path, spill: Path) -> "duckdb.DuckDBPyConnection":
    database: duckdb.DuckDBPyConnection = duckdb.connect(str(path))
    database.execute(f"SET memory_limit = '{_MEMORY}'")
    database.execute("SET temp_directory = ?", [str(spill)])
    return database


def _add_near(
    database: "duckdb.DuckDBPyConnection", max_distance: int, block: int, watch: Watch
) -> None:
    (left,) = database.execute(f"SELECT count(*) FROM ({_LEFT})").fetchall()[0]
    for places, bits in watch(_blocks(database.cursor(), block), -(-left // block)):
        search = _Search(database, max_distance)
        database.execute(_KEPT_HERE)
        search.drop((places, bits), "kept")
        rest = search.rest((places, bits))
        for first in range(0, len(rest[0]), _GROUP):
            group = rest[0][first : first + _GROUP], rest[1][first : first + _GROUP]
            search.drop(group, "kept_here")
            search.drop(search.rest(group), "images")
            search.keep(search.rest(group))
        search.write(last=int(places[-1]))


class _Search:
    """What is found in one block."""

    def __init__(self, database: "duckdb.DuckDBPyConnection", max_distance: int) -> None:
        self._database, self._max_distance = database, max_distance
        self._dropped: dict[int, tuple[int, int]] = {}

    def drop(self, images: Block, earlier: str) -> None:
        """Compare images with those of a table, `images` itself among them."""
        self._register(images)
        # In order, so each image is compared with earlier ones whose fate is known.
        for place, original, distance, mine, theirs in self._pairs(earlier):
            if place in self._dropped or original in self._dropped:
                continue
            if colour_distance(mine, theirs) <= MAX_COLOUR_DISTANCE:
                self._dropped[place] = original, distance

    def rest(self, images: Block) -> Block:
        """Those that are not dropped."""
        places, bits = images
        stays = ~np.isin(places, np.fromiter(self._dropped, np.int64, len(self._dropped)))
        return places[stays], bits[stays]

    def keep(self, images: Block) -> None:
        """Let images stay, for the comparison with later ones."""
        self._register(images)
        self._database.execute("INSERT INTO kept_here SELECT * FROM images")

    def write(self, *, last: int) -> None:
        """Write what the block gave, whose last image is `last`."""
        pa, _ = import_pyarrow()
        columns = {
            "place": list(self._dropped),
            "original": [original for original, _ in self._dropped.values()],
            "distance": [distance for _, distance in self._dropped.values()],
        }
        near = pa.table({name: pa.array(each, pa.int64()) for name, each in columns.items()})
        database = self._database
        database.register("near", near)
        database.execute("BEGIN")
        database.execute("INSERT INTO found SELECT place, original, false, distance FROM near")
        database.execute("INSERT INTO kept SELECT * FROM kept_here")
        database.execute("INSERT INTO blocks_done VALUES (?)", [last])
        database.execute("COMMIT")
        database.unregister("near")

    def _register(self, images: Block) -> None:
        pa, _ = import_pyarrow()
        self._database.register("images", pa.table(_parts(*images, self._max_distance + 1)))

    def _pairs(self, earlier: str) -> Iterator[tuple[int, int, int, bytes, bytes]]:
        """Pairs of an image and an earlier one with close bits, in order: both places, the
        distance, both colours.
        """
        self._database.execute(_PAIRS.format(earlier=earlier), [self._max_distance])
        for rows in iter(partial(self._database.fetchmany, _ROWS), []):
            yield from rows


def _blocks(cursor: "duckdb.DuckDBPyConnection", size: int) -> Iterator[Block]:
    """Places (N,) and bits (N, 32) of the images without exact duplicates before them, in order,
    after the blocks that are done.
    """
    cursor.execute(_LEFT)
    for rows in iter(partial(cursor.fetchmany, size), []):
        places = np.array([place for place, _ in rows], np.int64)
        joined = b"".join(bits for _, bits in rows)
        yield places, np.frombuffer(joined, np.uint8).reshape(len(rows), BITS // 8)


def _parts(
    places: NDArray[np.int64], bits: NDArray[np.uint8], count: int
) -> dict[str, NDArray[Any]]:
    """A row for each image and each of `count` parts of its hash, with the whole hash."""
    each = np.unpackbits(bits, axis=1)
    # Neighbouring frequencies are alike; parts of distant ones differ more between pictures.
    parts = [each[:, first::count] for first in range(count)]
    # Parts of more than 32 bits are cut, which makes them equal for all pairs that were equal.
    values = [_number(part[:, :32]) for part in parts]
    words = np.ascontiguousarray(bits).view(">u8").astype(np.uint64)
    return {
        "part": np.repeat(np.arange(count, dtype=np.uint8), len(places)),
        "value": np.concatenate(values),
        "place": np.tile(places, count),
        **{f"b{word}": np.tile(words[:, word], count) for word in range(4)},
    }


def _number(part: NDArray[np.uint8]) -> NDArray[np.uint32]:
    weights = (1 << np.arange(part.shape[1], dtype=np.uint64)).astype(np.uint64)
    return (part.astype(np.uint64) @ weights).astype(np.uint32)


def _write(database: "duckdb.DuckDBPyConnection", out: Path) -> None:
    query = """
        COPY (SELECT CAST(found.place // 4294967296 AS INTEGER) AS shard,
                     CAST(found.place % 4294967296 AS INTEGER) AS row,
                     exact, CAST(distance AS INTEGER) AS distance,
                     CAST(original // 4294967296 AS INTEGER) AS original_shard,
                     CAST(original % 4294967296 AS INTEGER) AS original_row,
                     name AS original_name
              FROM found JOIN (SELECT place AS original, name FROM pictures) USING (original)
              ORDER BY found.place) TO '{}' (FORMAT parquet, ROW_GROUP_SIZE 10000)
    """
    with atomic_file(out) as unfinished:
        name = str(unfinished).replace("'", "''")
        database.execute(query.format(name))
