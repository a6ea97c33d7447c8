"""The stage-1 speedrun: what it costs to train an encoder to a fixed loss and a fixed F1.

python benchmarks/speedrun.py run [ROW ...] [--seeds 3]
python benchmarks/speedrun.py render
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from speedrun_run import Levers, Targets, speedrun

from vlv.training.config import check_config
from vlv.training.stages.stage1 import Stage1Config

ROWS = Path(__file__).with_name("speedrun.yaml")


def merged(rows: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    row = rows["rows"][name]
    base = merged(rows, row["after"]) if "after" in row else rows["common"]
    return {part: {**base.get(part, {}), **row.get(part, {})} for part in ("config", "levers")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--lever", nargs="*", default=[])
    parser.add_argument("--scenes", type=int, default=200)
    options = parser.parse_args()
    rows = yaml.safe_load(ROWS.read_text())
    parts = merged(rows, options.row)
    for part, values in (("config", options.set), ("levers", options.lever)):
        for one in values:
            name, _, value = one.partition("=")
            parts[part][name] = yaml.safe_load(value)
    config = check_config(
        Stage1Config,
        {**parts["config"], "seed": options.seed, "output_dir": "runs/speedrun"},
        str(ROWS),
    )
    targets = Targets(**rows["targets"]) if "targets" in rows else None

    def report(p: Mapping[str, float]) -> None:
        print(
            json.dumps({k: round(v, 4) if v < 1e6 else f"{v:.4g}" for k, v in p.items()}),
            flush=True,
        )

    speedrun(config, Levers(**parts["levers"]), targets, options.scenes, report)


if __name__ == "__main__":
    main()
