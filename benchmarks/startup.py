"""Seconds from the shell until a command has answered, as a user waits for it.

    python benchmarks/startup.py [--repeats 5]

`vlv --help` is compared with its floor, an interpreter that does nothing; `vlv caption` of one
picture with its floor, importing torch and the classes of the model and doing nothing with them.
Medians of separate processes, all commands in turn.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from vlv.world.render import render
from vlv.world.scene import sample_scene

IMPORTS = "import torch; from transformers import CLIPTextModel, Florence2Model, Qwen2ForCausalLM"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    vlv = [sys.executable, "-m", "vlv.cli"]
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "one.png"
        Image.fromarray(render(sample_scene(1, "test"))).save(picture)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "vlv --help": [*vlv, "--help"],
            "python -c 'import ...'": [sys.executable, "-c", IMPORTS],
            "vlv caption one.png": [*vlv, "caption", str(picture)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                times[name].append(seconds(command))
    for name, measured in times.items():
        print(f"{name:24s} {statistics.median(measured):6.2f} s")


if __name__ == "__main__":
    main()
