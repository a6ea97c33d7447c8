"""Images a second and memory of `vlv bulk`, against the model alone on the same pictures.

    python benchmarks/bulk.py [--count 2000] [--memory-count 400] [--batch-size 32] [--threads 2]

The limit is the model: pictures lie decoded in memory, in batches of the same size, and the
model's own parts write their captions, greedy, in this process, before the job and after it.
`vlv bulk` does the same from files with one worker; both have to write the same captions. Its rate
is given from the shell to the end, as the command tells it (a worker's start and loading included),
and between the ends of its first and its last shard, where it only works: that one is to be within
10% of the limit. The processor's time says what share of it other programs left.

Memory is the most that all processes of a job held at once (sum of their resident sets), of a job
and of one ten times as large: it should not grow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from bulk_tables import markdown
from caption_folder import timed
from numpy.typing import NDArray
from recording import recorded

from vlv.data.images import load_image
from vlv.data.world_sets import render_world, world_samples
from vlv.models.preprocessing import encoder_pixels
from vlv.pipeline import VLV

# Seconds between two looks at the memory of a job.
_LOOK = 0.1


@dataclass(frozen=True)
class Row:
    """Seconds for `count` images; of the processor too, where they are known."""

    side: str
    count: int
    wall: float
    processor: float | None = None

    @property
    def rate(self) -> float:
        return self.count / self.wall


def measured(side: str, count: int, work: Callable[[], object]) -> Row:
    one = timed(side, count, work)
    return Row(side, count, one.wall, one.processor)


def decoded(model: VLV, files: list[Path]) -> torch.Tensor:
    """Pictures at the encoder's size."""
    seen = model.encoder.settings
    pixels: list[NDArray[Any]] = [
        encoder_pixels(load_image(file), seen.image_size, seen.crop_size) for file in files
    ]
    return torch.stack([torch.from_numpy(one) for one in pixels])


def captions_alone(model: VLV, pictures: torch.Tensor, batch_size: int) -> list[str]:
    captions = []
    for part in pictures.split(batch_size):
        with torch.inference_mode():
            z = model.encoder(model.encoder.preprocess_uint8(part))
            made = model.caption_decoder.generate(model.read(z), num_beams=1)
        captions += [" ".join(one.text.split()) for one in made]
    return captions


class BulkJob:
    """One run of `vlv bulk` from the shell; `command` and `environment` are how."""

    def __init__(self, files: list[Path], folder: Path, options: argparse.Namespace) -> None:
        pictures, self.target = folder / "pictures", folder / "captions"
        pictures.mkdir(parents=True)
        for file in files:
            os.link(file, pictures / file.name)
        self.shard_size = max(1, min(options.shard_size, len(files) // 2))
        flags = {
            "--num-beams": 1,
            "--batch-size": options.batch_size,
            "--workers": 1,
            "--shard-size": self.shard_size,
        }
        words = [str(word) for flag in flags.items() for word in flag]
        self.command = [sys.executable, "-m", "vlv.cli", "bulk", str(pictures), str(self.target)]
        self.command += [*words, "--json"]
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}

    def run(self) -> dict[str, Any]:
        """What the command says of itself."""
        ran = subprocess.run(self.command, check=True, stdout=subprocess.PIPE, env=self.environment)
        return dict(json.loads(ran.stdout))

    def peak(self) -> int:
        """Run it; the most bytes that its processes held at once."""
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, env=self.environment)
        most = 0
        while process.poll() is None:
            most = max(most, _resident(process.pid))
            time.sleep(_LOOK)
        assert process.returncode == 0
        return most

    def captions(self) -> list[str]:
        lines = (self.target / "metadata.jsonl").read_text("ascii").splitlines()
        return [json.loads(line)["text"] for line in lines]

    def between_shards(self) -> tuple[int, float]:
        """Images after the first shard, and the seconds that they took."""
        marks = sorted((self.target / ".vlv-bulk").glob("[0-9]*.json"))
        ends = [mark.stat().st_mtime for mark in marks]
        images = sum(json.loads(mark.read_bytes())["images"] for mark in marks[1:])
        return images, ends[-1] - ends[0]


def _resident(pid: int) -> int:
    """Bytes of a process and all that it started."""
    total = 0
    with suppress(psutil.NoSuchProcess):  # it ended meanwhile
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


def speeds(files: list[Path], folder: Path, options: argparse.Namespace) -> list[Row]:
    model = VLV.from_pretrained("vlv-mini")
    pictures = decoded(model, files)
    captions_alone(model, pictures[: options.batch_size], options.batch_size)  # all is loaded
    made: list[list[str]] = []

    def alone(when: str) -> Row:
        side = f"the model alone, {when}"
        return measured(
            side,
            len(files),
            lambda: made.append(captions_alone(model, pictures, options.batch_size)),
        )

    job, facts = BulkJob(files, folder, options), {}
    before = alone("before")
    shell = measured(
        "vlv bulk, from the shell to its end", len(files), lambda: facts.update(job.run())
    )
    after = alone("after")
    assert made[0] == made[1] == job.captions()
    images, seconds = job.between_shards()
    return [
        before,
        after,
        shell,
        Row("vlv bulk, as it reports", len(files), facts["seconds"]),
        Row("vlv bulk, between its shards", images, seconds),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="images that are timed")
    parser.add_argument("--memory-count", type=int, default=400, help="images of the smaller job")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shard-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder) / "scenes"
        counts = [options.memory_count, 10 * options.memory_count]
        render_world(world_samples(max(options.count, *counts), seed=9), scenes)
        files = sorted(scenes.glob("*.png"))
        rows = speeds(files[: options.count], Path(folder) / "timed", options)
        peaks = {
            count: BulkJob(files[:count], Path(folder) / str(count), options).peak()
            for count in counts
        }
    limit = (rows[0].rate + rows[1].rate) / 2
    result = {
        "options": recorded(options),
        "rows": [asdict(row) for row in rows],
        "shares_of_the_limit": {row.side: row.rate / limit for row in rows},
        "peak_bytes": {str(count): peak for count, peak in peaks.items()},
    }
    print(markdown(result))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
