"""The best weights of a run, and a process that is killed while it writes them."""

import subprocess
import sys
import time
from pathlib import Path

import torch
from tests import launcher

from vlv.training.run_folder import BestWeights

_WRITER = """
import sys, torch
from pathlib import Path
from vlv.training.run_folder import BestWeights

large = {"large": torch.zeros(100_000_000)}
print("ready", flush=True)
BestWeights(Path(sys.argv[1]), "loss").offer({"loss": 1.0}, 1, large)
"""


def test_what_a_killed_process_left_of_them_goes_with_the_next_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    process = launcher.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    while not any(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not (tmp_path / "best.safetensors").exists()
    BestWeights(tmp_path, "loss").offer({"loss": 1.0}, 1, {"small": torch.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]
