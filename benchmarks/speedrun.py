"""The stage-1 speedrun: what it costs to train a fresh encoder to a fixed loss and a fixed F1.

    python benchmarks/speedrun.py run [ROW ...] [--seeds 3]
    python benchmarks/speedrun.py targets
    python benchmarks/speedrun.py render
    python benchmarks/speedrun.py bounds

`run` does the runs of speedrun.yaml that are missing, at most `--limit` of them, the first seed of
every row first. A finished run is one line of runs/speedrun/runs.jsonl and is not done again unless
its row's settings change; one that was stopped begins anew. `targets` runs the first row to its
end on `target_seeds`, which no row of the table uses; the targets are set from these runs. `render`
writes docs/benchmarks/speedrun.json, the table of docs/speedrun.md and docs/images/speedrun.svg
from the finished runs. `bounds` prints between what the held-out loss can lie: without a
conditioning, and with a true caption of each scene.

A try that is recorded nowhere: `run ROW --seeds 1 --try max_train_steps=64 levers.num_queries=16`
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import speedrun_tables
import yaml
from recording import recorded
from speedrun_levers import Levers
from speedrun_run import Targets, loss_bounds, speedrun

from vlv.errors import ConfigError
from vlv.files import atomic_file
from vlv.training.config import check_config
from vlv.training.stages.stage1 import Stage1Config
from vlv.yaml_files import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
ROWS = Path(__file__).with_name("speedrun.yaml")
RECORD = ROOT / "docs" / "benchmarks" / "speedrun.json"
Settings = dict[str, dict[str, Any]]


def settings(content: Mapping[str, Any], name: str) -> Settings:
    """The config and the levers of a row, with those that it starts from."""
    row = content["rows"][name]
    before = settings(content, row["after"]) if "after" in row else {"config": content["common"]}
    return {part: {**before.get(part, {}), **row.get(part, {})} for part in ("config", "levers")}


def identity(content: Mapping[str, Any], name: str) -> str:
    """Changes when the settings of a row do."""
    text = json.dumps([settings(content, name), content["scenes"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def do(
    content: Mapping[str, Any], parts: Settings, seed: int, targets: Targets | None
) -> dict[str, Any]:
    """One run; its course is printed."""
    fields = {**parts["config"], "seed": seed, "output_dir": "runs/speedrun"}
    config = check_config(Stage1Config, fields, str(ROWS))
    points = speedrun(config, Levers(**parts["levers"]), targets, content["scenes"], _print)
    return {"seed": seed, "points": points}


def _print(point: Mapping[str, float]) -> None:
    print(json.dumps({name: float(f"{value:.5g}") for name, value in point.items()}), flush=True)


def run(content: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Do what is missing of the table."""
    names = options.rows or list(content["rows"])
    wanted = [(name, seed) for seed in range(options.seeds) for name in names]
    _do_missing(content, options, wanted, Targets(**content["targets"]))


def run_for_targets(content: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Do what is missing of the runs from which the targets are set."""
    first = next(iter(content["rows"]))
    _do_missing(content, options, [(first, seed) for seed in content["target_seeds"]], None)


def _do_missing(
    content: Mapping[str, Any],
    options: argparse.Namespace,
    wanted: Sequence[tuple[str, int]],
    targets: Targets | None,
) -> None:
    file = options.folder / "runs.jsonl"
    done = {_mark(one) for one in finished(file)}
    marked = [(name, identity(content, name), seed) for name, seed in wanted]
    for name, mark, seed in [one for one in marked if one not in done][: options.limit]:
        print(f"{name}, seed {seed}", flush=True)
        made = do(content, settings(content, name), seed, targets)
        line = {"row": name, "settings": mark, **made, **recorded(argparse.Namespace())}
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def attempt(content: Mapping[str, Any], options: argparse.Namespace) -> None:
    """A run of each row with changed settings, which is not recorded."""
    for name in options.rows:
        parts = settings(content, name)
        for change in options.changes:
            key, _, value = change.partition("=")
            part, name_of = ("levers", key[7:]) if key.startswith("levers.") else ("config", key)
            parts[part][name_of] = parse_yaml(value, change, ConfigError)
        for seed in range(options.seeds):
            do({**content, "scenes": options.scenes}, parts, seed, None)


def finished(file: Path) -> list[dict[str, Any]]:
    """The runs of the file and those of the committed record."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    recorded_runs = (*record.get("runs", ()), *record.get("target_runs", ()))
    found = {_mark(one): one for one in (*recorded_runs, *map(json.loads, lines))}
    return list(found.values())


def _mark(one: Mapping[str, Any]) -> tuple[str, str, int]:
    return one["row"], one["settings"], one["seed"]


def collected(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What the page shows: the runs of rows whose settings are still theirs."""
    current = {name: identity(content, name) for name in content["rows"]}
    runs = [one for one in finished(file) if current.get(one["row"]) == one["settings"]]
    order = list(current)
    runs.sort(key=lambda one: (order.index(one["row"]), one["seed"]))
    apart = content["target_seeds"]
    return {
        "targets": content["targets"],
        "rows": {
            name: {"title": row["title"], "after": row.get("after"), "changes": _changes(row)}
            for name, row in content["rows"].items()
        },
        "target_runs": [one for one in runs if one["seed"] in apart],
        "runs": [one for one in runs if one["seed"] not in apart],
    }


def _changes(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row.get("config", {}), **row.get("levers", {})}


def render(content: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Write the record, the page's table and its plot."""
    import tables

    result = collected(content, options.folder / "runs.jsonl")
    with atomic_file(RECORD) as unfinished:
        unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot = ROOT / "docs" / "images" / "speedrun.svg"
    plot.write_text(speedrun_tables.plot(result), encoding="utf-8")
    page = ROOT / "docs" / "speedrun.md"
    page.write_text(tables.filled(page.read_text(encoding="utf-8")), encoding="utf-8")


def bounds(content: Mapping[str, Any]) -> None:
    """Print the losses that frame a run's."""
    parts = settings(content, next(iter(content["rows"])))
    fields = {**parts["config"], "output_dir": "runs/speedrun"}
    _print(loss_bounds(check_config(Stage1Config, fields, str(ROWS))))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "targets", "render", "bounds"):
        command = commands.add_parser(name)
        command.add_argument("--rows-file", type=Path, default=ROWS)
        if name != "bounds":
            command.add_argument("--folder", type=Path, default=Path("runs/speedrun"))
        if name in ("run", "targets"):
            command.add_argument("--limit", type=int, help="so many runs at most")
        if name == "run":
            command.add_argument("rows", nargs="*")
            command.add_argument("--seeds", type=int, default=3)
            command.add_argument("--try", dest="changes", nargs="*")
            command.add_argument("--scenes", type=int, default=0, help="for F1 of a try")
    options = parser.parse_args(arguments)
    content = yaml.safe_load(options.rows_file.read_text(encoding="utf-8"))
    if options.command == "render":
        render(content, options)
    elif options.command == "bounds":
        bounds(content)
    elif options.command == "targets":
        run_for_targets(content, options)
    elif options.changes is not None:
        attempt(content, options)
    else:
        run(content, options)


if __name__ == "__main__":
    main()
