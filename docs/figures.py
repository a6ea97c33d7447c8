"""Measure again what the docs say of the package's model, after its weights have changed.

Each file is measured once for the weights that are there, so that the same command goes on where it
was stopped. About three hours of one core; two processes of one thread share two cores.
Ablations of the report train for many hours, so they are measured only when they are asked for.

python docs/figures.py [--jobs 2] [--ablations] [--list]
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from vlv.checkpoints.hub import resolve
from vlv.evaluation.ablations.shared import AblationConfig
from vlv.evaluation.reproduction import preset_folder, read_preset
from vlv.evaluation.results import CHECKS, folder_hash, model_hash

ROOT = Path(__file__).resolve().parents[1]
# Each file names its table and the fields that it was measured with. The longest come first.
FILES = [
    "docs/eval_mini.json",
    "docs/eval_verify.json",
    "docs/eval_mini_unseen_pairs.json",
    "docs/eval_mini_unseen_counts.json",
    "docs/eval_renderer.json",
    "docs/eval_verify_counts.json",
    "docs/ood.json",
]
PRESET = "full"
REPORT = ["reproduce", "--preset", PRESET, "--output", "docs/reproduction"]
# What is made of the files, and is quick.
AFTER = (["docs/images/verify_plots.py"], ["docs/tables.py"])


def stale() -> list[str]:
    """The files that were measured with other weights."""
    folder = resolve("vlv-mini")
    weights = {"model_sha256": model_hash(folder), "checks_sha256": folder_hash(folder, CHECKS)}
    return [path for path in FILES if not weights.items() <= {**weights, **measured(path)}.items()]


def measured(path: str) -> dict[str, Any]:
    """How a file was measured."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))["provenance"]


def without_training() -> list[str]:
    """The option for the tables of the report that train nothing."""
    folder = preset_folder(PRESET)
    assert folder is not None
    tables = read_preset(folder).items()
    names = [name for name, config in tables if not isinstance(config, AblationConfig)]
    return ["--tables", ",".join(names)]


def run(*command: str) -> None:
    print(" ".join(command), flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)


def measure(path: str) -> None:
    before = measured(path)
    with NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as config:
        json.dump(before["config"], config)
        config.flush()
        run(
            "-m", "vlv.cli", "eval", before["evaluation"], "--config", config.name, "--output", path
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--ablations", action="store_true", help="train and measure ablations too")
    parser.add_argument("--list", action="store_true", help="name the files, and measure nothing")
    options = parser.parse_args()
    waiting = stale()
    if options.list:
        print(*waiting, sep="\n")
        return
    with ThreadPoolExecutor(options.jobs) as pool:
        # The report is the longest of all, and keeps each of its tables.
        report = REPORT if options.ablations else [*REPORT, *without_training()]
        jobs = [pool.submit(run, "-m", "vlv.cli", *report)]
        jobs += [pool.submit(measure, path) for path in waiting]
    failed = [error for job in jobs if (error := job.exception()) is not None]
    for error in failed:
        print(error, file=sys.stderr)
    if failed:
        raise SystemExit(1)
    for script in AFTER:
        run(*script)


if __name__ == "__main__":
    main()
