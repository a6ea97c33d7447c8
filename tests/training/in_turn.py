"""`python -m tests.training.in_turn STAGE CONFIG...`: several runs of a stage in one process."""

import sys
from pathlib import Path

from vlv.training.loop import train
from vlv.training.registry import build_stage

if __name__ == "__main__":
    stage, *configs = sys.argv[1:]
    for config in configs:
        train(build_stage(stage, Path(config)))
