"""Near duplicates: multi-index hashing against a comparison of all pairs."""

import io
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

from vlv.data.curation import duplicates
from vlv.data.curation.duplicates import Block, find_duplicates
from vlv.data.curation.examining import SCHEMA
from vlv.data.curation.hashes import MAX_COLOUR_DISTANCE, colour_distance, fingerprint

COUNT, SHARDS = 2000, 4


def hashes(seed: int) -> tuple[np.ndarray, np.ndarray, list[bytes]]:  # type: ignore[type-arg]
    """Bits, colours and exact hashes, with chains of small changes and exact copies among them."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (COUNT, 32), dtype=np.uint8)
    colours = rng.integers(0, 256, (COUNT, 108), dtype=np.uint8)
    exact = [f"{at:016d}".encode() for at in range(COUNT)]
    for at in range(1, COUNT):
        kind = at % 10
        if kind in (1, 2, 3):  # a change of the last one, so that chains drift away
            bits[at], colours[at] = bits[at - 1], colours[at - 1]
            for bit in rng.choice(256, rng.integers(0, 16), replace=False):
                bits[at, bit // 8] ^= 1 << (bit % 8)
        elif kind == 4:  # the same bits in other colours
            bits[at] = bits[at - 1]
        elif kind == 5:
            exact[at] = exact[rng.integers(at)]
    return bits, colours, exact


def write_records(folder: Path, seed: int) -> None:
    bits, colours, exact = hashes(seed)
    rows: list[dict[str, Any]] = [
        {
            **dict.fromkeys(SCHEMA),
            **{"shard": at // (COUNT // SHARDS), "row": at % (COUNT // SHARDS), "name": f"{at}"},
            **{"pixels": exact[at], "bits": bits[at].tobytes(), "colours": colours[at].tobytes()},
            "reason": "flat" if at % 50 == 49 else None,
        }
        for at in range(COUNT)
    ]
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in SCHEMA.items()])
    folder.mkdir()
    for shard in range(SHARDS):
        these = [row for row in rows if row["shard"] == shard]
        pq.write_table(pa.Table.from_pylist(these, schema), folder / f"{shard:05d}.parquet")


def by_all_pairs(seed: int, distance: int) -> dict[int, tuple[int, int, bool]]:
    """Place -> original, distance, whether it is exact; every image compared with all that stay."""
    bits, colours, exact = hashes(seed)
    each = np.unpackbits(bits, axis=1)
    first: dict[bytes, int] = {}
    found: dict[int, tuple[int, int, bool]] = {}
    kept: list[int] = []
    for at in range(COUNT):
        if at % 50 == 49:
            continue
        original = first.setdefault(exact[at], at)
        if original != at:
            found[at] = original, 0, True
            continue
        distances = (each[kept] != each[at]).sum(axis=1)
        near = [
            (other, int(one), False)
            for other, one in zip(kept, distances, strict=True)
            if one <= distance
            and colour_distance(colours[other].tobytes(), colours[at].tobytes())
            <= MAX_COLOUR_DISTANCE
        ]
        if near:
            found[at] = near[0]
        else:
            kept.append(at)
    return found


@pytest.mark.parametrize(
    ("distance", "block", "group"),
    [(12, 250_000, 1000), (12, 250_000, 50), (12, 150, 40), (7, 700, 1000), (0, 150, 100)],
)
def test_all_near_duplicates_are_found_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distance: int, block: int, group: int
) -> None:
    monkeypatch.setattr(duplicates, "_GROUP", group)
    write_records(tmp_path / "re[c]ords?", seed=distance)
    out = tmp_path / "out.parquet"
    spill = tmp_path / "it's here [1] *"
    find_duplicates(tmp_path / "re[c]ords?", out, max_distance=distance, spill=spill, block=block)
    size = COUNT // SHARDS
    rows = pq.read_table(out).to_pylist()
    found = {
        size * row["shard"] + row["row"]: (
            size * row["original_shard"] + row["original_row"],
            row["distance"],
            row["exact"],
        )
        for row in rows
    }
    expected = by_all_pairs(distance, distance)
    assert found == expected and len(found) > 200
    assert [row["original_name"] for row in rows] == [
        str(original) for _, (original, *_) in sorted(expected.items())
    ]
    assert not spill.exists()


# Kills itself by SIGKILL while it compares its third block.
KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from vlv.data.curation import duplicates

write, blocks = duplicates._Search.write, itertools.count()


def until_killed(search, *, last):
    if next(blocks) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(search, last=last)


duplicates._Search.write = until_killed
records, out, spill = map(Path, sys.argv[1:])
duplicates.find_duplicates(records, out, max_distance=12, spill=spill, block=150)
"""


def test_a_search_that_was_killed_goes_on_with_the_next_block(tmp_path: Path) -> None:
    write_records(tmp_path / "records", seed=5)
    out, spill = tmp_path / "out.parquet", tmp_path / "spill"
    ran = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "records", out, spill])
    assert ran.returncode == -signal.SIGKILL and not out.exists()
    (spill / "duckdb_temp_storage-0.tmp").write_bytes(b"left behind")

    def searched(target: Path) -> int:
        sizes: list[int] = []

        def watch(blocks: Iterable[Block], _: int) -> Iterator[Block]:
            for block in blocks:
                sizes.append(len(block[0]))
                yield block

        find_duplicates(
            tmp_path / "records", target, max_distance=12, spill=spill, block=150, watch=watch
        )
        return sum(sizes)

    resumed, clean = searched(out), tmp_path / "clean.parquet"
    assert resumed == searched(clean) - 2 * 150 > 0
    assert out.read_bytes() == clean.read_bytes()


PHOTOGRAPHS = ["astronaut", "coffee", "rocket", "camera", "coins", "chelsea"]


def distances(one: Image.Image, other: Image.Image) -> tuple[int, int]:
    a, b = fingerprint(one), fingerprint(other)
    different = int.from_bytes(a.bits, "big") ^ int.from_bytes(b.bits, "big")
    return different.bit_count(), colour_distance(a.colours, b.colours)


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).convert("RGB")


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_that_were_encoded_again_stay_near(name: str) -> None:
    one = photograph(name)
    for quality in (90, 60, 30):
        file = io.BytesIO()
        one.save(file, "JPEG", quality=quality)
        bits, colours = distances(one, Image.open(file).convert("RGB"))
        assert bits <= 12 and colours <= MAX_COLOUR_DISTANCE
    bits, colours = distances(one, one.resize((one.width * 2, one.height * 2)))
    assert bits <= 12 and colours <= MAX_COLOUR_DISTANCE


def test_photographs_that_differ_are_far_apart() -> None:
    pictures = [photograph(name) for name in PHOTOGRAPHS]
    pictures += [one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in pictures]
    pairs = [(a, b) for at, a in enumerate(pictures) for b in pictures[:at]]
    assert min(distances(a, b)[0] for a, b in pairs) > 60
