"""Measure again what the docs say of the package's model, after its weights have changed.

Each file is measured once for the weights that are there, so that the same command goes on where it
was stopped. About five hours of one core; two processes of one thread share two cores.

python docs/figures.py [--jobs 2] [--list]
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vlv.checkpoints.hub import resolve
from vlv.evaluation.results import CHECKS, folder_hash, model_hash

ROOT = Path(__file__).resolve().parents[1]
RENDERER_RECORDS = "runs/figures/renderer.jsonl"
# Of each file, the table and its options, the longest first.
FILES = {
    "docs/eval_mini.json": ["mini", "count=1000"],
    "docs/eval_verify.json": ["verify"],
    "docs/eval_mini_unseen_pairs.json": [
        *("mini", "count=500", "split=unseen-pairs", "guidance_sweep=[2]")
    ],
    "docs/eval_mini_unseen_counts.json": [
        *("mini", "count=500", "split=unseen-counts", "guidance_sweep=[2]")
    ],
    "docs/eval_renderer.json": ["renderer", "count=17", f"records={RENDERER_RECORDS}"],
    "docs/eval_verify_counts.json": [
        *("verify", "errors=[count]", "count=80", "seed=7", "best_of=1")
    ],
    "docs/ood.json": ["ood"],
}
REPORT = ["reproduce", "--preset", "full", "--output", "docs/reproduction"]
# What is made of the files, and is quick.
AFTER = (["docs/images/verify_plots.py"], ["docs/tables.py"])


def stale() -> dict[str, list[str]]:
    """Files that are missing or were measured with other weights, and their tables."""
    folder = resolve("vlv-mini")
    weights = {"model_sha256": model_hash(folder), "checks_sha256": folder_hash(folder, CHECKS)}
    return {path: table for path, table in FILES.items() if not _measured(path, weights)}


def _measured(path: str, weights: dict[str, str]) -> bool:
    """Whether the file is there, and all weights that it names are these."""
    file = ROOT / path
    if not file.is_file():
        return False
    named = json.loads(file.read_text(encoding="utf-8"))["provenance"]
    return all(named.get(key, one) == one for key, one in weights.items())


def run(*command: str) -> None:
    print(" ".join(command), flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)


def measure(path: str, table: list[str]) -> None:
    run("-m", "vlv.cli", "eval", *table, "num_threads=1", "--output", path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--list", action="store_true", help="name the files, and measure nothing")
    options = parser.parse_args()
    waiting = stale()
    if options.list:
        print(*waiting, sep="\n")
        return
    (ROOT / RENDERER_RECORDS).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        # The report is the longest of all, and keeps each of its tables.
        jobs = [pool.submit(run, "-m", "vlv.cli", *REPORT)]
        jobs += [pool.submit(measure, *one) for one in waiting.items()]
    failed = [error for job in jobs if (error := job.exception()) is not None]
    for error in failed:
        print(error, file=sys.stderr)
    if failed:
        raise SystemExit(1)
    for script in AFTER:
        run(*script)


if __name__ == "__main__":
    main()
