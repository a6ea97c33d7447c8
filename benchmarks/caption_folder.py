"""Images a second of a whole folder of scenes, greedy, against a plain loop over its files.

    python benchmarks/caption_folder.py [--count 1000] [--batch-sizes 8,32] [--threads 2]

Both sides work in one process on the same model and files, in turn, and have to write the same
captions: the plain loop opens an image, encodes it and has `generate` write its caption; ours is
what `vlv caption FOLDER --num-beams 1` does, at each batch size. Then that command itself is timed
from the shell to its end. The processor's time says what share of it other programs left, and a
profile by stage what limits the rate.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measuring import Clock
from PIL import Image
from recording import recorded

from vlv.data.world_sets import render_world, world_samples
from vlv.inference.captioning import CaptionSettings, caption_images
from vlv.inference.records import Captioned, ImageInput
from vlv.pipeline import VLV

GREEDY = CaptionSettings(num_beams=1)


@dataclass(frozen=True)
class Timed:
    """Seconds of one side, by the clock on the wall and of the processor, for `count` images."""

    side: str
    count: int
    wall: float
    processor: float

    def line(self) -> str:
        rate = self.count / self.wall
        at_work = self.processor / self.wall
        return f"| {self.side} | {rate:.1f} | {self.wall:.1f} | {at_work:.2f} |"


def timed(side: str, count: int, work: Callable[[], object]) -> Timed:
    before, start = os.times(), time.perf_counter()
    work()
    wall, after = time.perf_counter() - start, os.times()
    processor = sum(after[:4]) - sum(before[:4])  # with children that have ended
    return Timed(side, count, wall, processor)


def plain(model: VLV, files: list[Path]) -> list[str]:
    captions = []
    for file in files:
        with Image.open(file) as image:
            pixels = model.encoder.preprocess([image.convert("RGB")])
        with torch.inference_mode():
            c = model.read(model.encoder(pixels))
            made = model.caption_decoder.generate(c, num_beams=1)
        captions.append(" ".join(made[0].text.split()))
    return captions


def ours(model: VLV, files: list[Path], batch_size: int) -> list[str]:
    results = caption_images(model, map(ImageInput.of_file, files), GREEDY, batch_size=batch_size)
    return [one.caption for one in results if isinstance(one, Captioned)]


def stages(model: VLV, files: list[Path], batch_size: int) -> dict[str, float]:
    """Milliseconds an image in each stage, of ours."""
    clock = Clock()
    florence, caption_decoder = model.encoder.florence, model.caption_decoder
    clock.watch("vision tower", florence.vision_tower)
    for part in (florence.language_model.encoder, florence.language_model.decoder):
        clock.watch("transformer", part)
    clock.watch("text tower", model.text_tower.clip.encoder)
    clock.watch("language model", caption_decoder.lm.base_model)
    clock.watch("language model's head", caption_decoder.lm.get_output_embeddings())
    start = time.perf_counter()
    ours(model, files, batch_size)
    whole = time.perf_counter() - start
    found = {stage: sum(each) for stage, each in clock.seconds.items()}
    found["the rest"] = whole - sum(found.values())
    return {stage: 1e3 * seconds / len(files) for stage, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--plain-count", type=int, default=100, help="images of the plain loop")
    parser.add_argument("--batch-sizes", default="8,32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        render_world(world_samples(options.count, seed=9), Path(folder) / "scenes")
        files = sorted((Path(folder) / "scenes").glob("*.png"))
        model = VLV.from_pretrained("vlv-mini")
        few = files[: options.plain_count]
        ours(model, few, sizes[0])  # every part is loaded, every kernel has run
        captions: list[list[str]] = []
        rows = [
            timed("plain loop", len(few), lambda: captions.append(plain(model, few))),
            *(
                timed(
                    f"batches of {size}",
                    len(files),
                    lambda size=size: captions.append(ours(model, files, size)),
                )
                for size in sizes
            ),
        ]
        assert all(one[: len(few)] == captions[0] for one in captions[1:])
        by_stage = {size: stages(model, few, size) for size in sizes}
        command = [sys.executable, "-m", "vlv.cli", "caption", str(Path(folder) / "scenes")]
        command += ["--num-beams", "1", "--output-format", "jsonl"]
        command += ["--output", str(Path(folder) / "captions.jsonl")]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        rows.append(
            timed(
                "vlv caption, from the shell",
                len(files),
                lambda: subprocess.run(command, check=True, capture_output=True, env=environment),
            )
        )
    print("| side | images/s | seconds | processors at work |\n| --- | ---: | ---: | ---: |")
    print("\n".join(row.line() for row in rows))
    for size, found in by_stage.items():
        print(
            f"batches of {size}, ms an image:", ", ".join(f"{k} {v:.1f}" for k, v in found.items())
        )
    if options.json is not None:
        result = {"options": recorded(options), "rows": [asdict(row) for row in rows]}
        result["stages"] = {str(size): found for size, found in by_stage.items()}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
