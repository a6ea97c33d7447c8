"""Memory and CPU time of `vlv data curate` and `vlv data index` at millions of samples.

    nice -n 10 python benchmarks/curation.py --json curation.json

Everything is synthetic: metadata with the columns of LAION's, records of random hashes with planted
duplicates, and shards of tiny members. Each step runs in a process of its own, at several counts,
so that memory which grows with the count is seen.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_OF_A_FILE = 100_000
IMAGES_OF_A_SHARD = 5_000
SAMPLES_OF_A_SHARD = 10_000
# Of a hundred hashes, one is an exact copy of an earlier one, and one differs in a few bits.
_COPIES = 100
_NEAR_BITS = 6
_SEARCH = """
import sys
from pathlib import Path
from vlv.data.curation.duplicates import find_duplicates
records, out, spill = map(Path, sys.argv[1:])
find_duplicates(records, out, max_distance=12, spill=spill)
"""


@dataclass(frozen=True)
class Measured:
    """One step: seconds of CPU time of its processes, and the largest resident set of one."""

    step: str
    count: int
    found: int
    cpu_seconds: float
    peak_rss_mb: float


def measured(step: str, count: int, command: list[object]) -> tuple[float, float]:
    """CPU seconds and the peak of the resident set in MB, of a command that must succeed."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{step} of {count:,} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


def vlv(*words: object) -> list[object]:
    return [sys.executable, "-m", "vlv.cli", *words]


def write_metadata(folder: Path, count: int) -> None:
    """Parquet files of links, with sizes, scores and captions."""
    folder.mkdir()
    for number, first in enumerate(range(0, count, ROWS_OF_A_FILE)):
        rng = np.random.default_rng(number)
        rows = min(ROWS_OF_A_FILE, count - first)
        names = np.arange(first, first + rows).astype(str)
        columns = {
            "URL": np.char.add(np.char.add("https://images.example/", names), ".jpg"),
            "TEXT": np.char.add("a photograph of the thing with the number ", names),
            "WIDTH": rng.integers(100, 2000, rows, np.int32),
            "HEIGHT": rng.integers(100, 2000, rows, np.int32),
            "similarity": rng.random(rows, np.float32),
            "punsafe": rng.random(rows, np.float32) ** 4,
            "pwatermark": rng.random(rows, np.float32),
            "AESTHETIC_SCORE": rng.normal(5, 1, rows).astype(np.float32),
        }
        pq.write_table(pa.table(columns), folder / f"part-{number:05d}.parquet")


def write_records(folder: Path, count: int) -> int:
    """Records as the first step of a curation writes them; returns the number of planted copies."""
    folder.mkdir()
    planted = 0
    for shard, first in enumerate(range(0, count, IMAGES_OF_A_SHARD)):
        rng = np.random.default_rng(shard)
        rows = min(IMAGES_OF_A_SHARD, count - first)
        bits = rng.integers(0, 256, (rows, 32), np.uint8)
        colours = rng.integers(0, 256, (rows, 108), np.uint8)
        pixels = rng.integers(0, 256, (rows, 16), np.uint8)
        copies = np.arange(_COPIES, rows - 1, _COPIES)
        pixels[copies] = pixels[copies - _COPIES + 2]
        bits[copies + 1] = bits[copies - _COPIES + 3]
        colours[copies + 1] = colours[copies - _COPIES + 3]
        bits[copies + 1, 0] ^= (1 << _NEAR_BITS) - 1
        planted += 2 * len(copies)
        columns = {
            "shard": pa.array(np.full(rows, shard, np.int32)),
            "row": pa.array(np.arange(rows, dtype=np.int32)),
            "name": [f"{shard:05d}/{row}.jpg" for row in range(rows)],
            "reason": pa.nulls(rows, pa.string()),
            "pixels": pa.array([one.tobytes() for one in pixels], pa.binary()),
            "bits": pa.array([one.tobytes() for one in bits], pa.binary()),
            "colours": pa.array([one.tobytes() for one in colours], pa.binary()),
        }
        pq.write_table(pa.table(columns), folder / f"{shard:05d}.parquet", compression="zstd")
    return planted


def write_shards(folder: Path, count: int) -> None:
    """Shards of samples of one small member; each is a link to the same file."""
    folder.mkdir()
    first = folder / "00000.tar"
    with tarfile.open(first, "w") as tar:
        for number in range(SAMPLES_OF_A_SHARD):
            member = tarfile.TarInfo(f"{number:09d}.jpg")
            member.size = 100
            tar.addfile(member, io.BytesIO(bytes(100)))
    for number in range(1, count // SAMPLES_OF_A_SHARD):
        os.link(first, folder / f"{number:05d}.tar")


def metadata(work: Path, count: int) -> Measured:
    source, target = work / f"laion-{count}", work / f"links-{count}"
    write_metadata(source, count)
    command = vlv("data", "curate", source, target, "--paper", "--where", "punsafe < 0.1")
    used = measured("metadata", count, command)
    summary = json.loads((target / "curation.json").read_text())
    assert summary["samples"] == count
    return Measured("metadata", count, summary["kept"], *used)


def duplicates(work: Path, count: int) -> Measured:
    records, out = work / f"records-{count}", work / f"duplicates-{count}.parquet"
    planted = write_records(records, count)
    command = [sys.executable, "-c", _SEARCH, records, out, work / f"spill-{count}"]
    used = measured("duplicates", count, command)
    found = pq.read_metadata(out).num_rows
    assert found == planted, (found, planted)
    return Measured("duplicates", count, found, *used)


def index(work: Path, count: int) -> Measured:
    shards, folder = work / f"shards-{count}", work / f"index-{count}"
    write_shards(shards, count)
    command = vlv("data", "index", shards, "--index-folder", folder, "--workers", "1")
    used = measured("index", count, command)
    (entries,) = folder.glob("*.npy")
    found = len(np.load(entries, mmap_mode="r"))
    assert found == count
    return Measured("index", count, found, *used)


# Each step, and at how many samples it is measured.
STEPS = {
    "metadata": (metadata, (500_000, 5_000_000)),
    "duplicates": (duplicates, (100_000, 1_000_000, 3_000_000)),
    "index": (index, (100_000, 1_000_000)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.steps:
            step, counts = STEPS[name]
            for size in counts:
                one = step(Path(folder), size)
                print(json.dumps(asdict(one)), flush=True)
                results.append(asdict(one))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
