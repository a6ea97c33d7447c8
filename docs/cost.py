"""Writes the tables of docs/cost.md: what the paper's recipe costs, row by row from `vlv cost`.

    python docs/cost.py            renders them from docs/cost.json
    python docs/cost.py --count    counts every row again first, which takes minutes
    python docs/cost.py --missing  counts only the rows that docs/cost.json lacks

Rows that differ in GPU and price alone are counted once.
"""

import argparse
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlv.training.cost.bill import Bill
from vlv.training.cost.gpus import gpu_named
from vlv.training.cost.text import bill_json
from vlv.training.pricing import price_run

DOCS = Path(__file__).parent
FIGURES = DOCS / "cost.json"
PAGE = DOCS / "cost.md"
_GENERATED = re.compile(r"(<!-- cost: (\S+) -->)\n.*?<!-- end -->", re.DOTALL)

_ONE = "configs/paper/stage1-80gb.yaml --gpu h100 --price 2.5"
_TWO = "configs/paper/stage2-80gb.yaml --gpu h100 --price 2.5"
_384 = "--encoder-image-size 384"
_PAPER_2 = "denoising_weight=0"
# The paper's two stages on several GPUs, with the price of an hour of each as an example.
GPUS = {"h100": 2.5, "h200": 3, "b200": 5, "a100-80gb": 1.5}
STAGES = {
    (1, 768): _ONE,
    (1, 384): f"{_ONE} {_384}",
    (2, 768): f"{_TWO} {_PAPER_2}",
    (2, 384): f"{_TWO} {_384} {_PAPER_2}",
}
PAPER = {
    (size, gpu): [
        STAGES[stage, size].replace("h100 --price 2.5", f"{gpu} --price {price}")
        for stage in (1, 2)
    ]
    for size in (384, 768)
    for gpu, price in GPUS.items()
}
_ADA = "configs/paper/stage1-8gpu.yaml --gpu rtx-6000-ada --gpus 8 --price 0.8"
STATED = {384: f"{_ADA} {_384}", 768: _ADA}
# Levers of stage 1, each added to those above it: overrides of the config. A step has 512 draws of
# noise in each row.
_STEPS = {
    "as it is": "",
    "and latents cached": "data.latents=latents",
    "and 4 draws of noise for each of 128 pictures": (
        "noise_draws=4 gradient_accumulation_steps=16"
    ),
    "and the vision tower frozen": "trainable=[encoder]",
}
_AGAIN = "gradient_checkpointing=true"
LEVERS = {
    "activations computed again, in micro-batches of 32": (
        f"{_ONE} {_AGAIN} train_batch_size=32 gradient_accumulation_steps=16"
    )
} | {
    label: " ".join([_ONE, *list(_STEPS.values())[1 : number + 1]])
    for number, label in enumerate(_STEPS)
}
# What changes the memory of a process, of stage 2 on eight GPUs: overrides of the config.
_TWO_8 = "configs/paper/stage2-8gpu.yaml --gpu h100 --gpus 8 --price 2.5"
MEMORY = {
    "each process has everything": f"{_TWO_8} {_AGAIN} sharding=none",
    "and moments in 8 bits": f"{_TWO_8} {_AGAIN} sharding=none optimizer=adamw8bit",
    "weights spread over the processes (`sharding: fsdp`)": f"{_TWO_8} {_AGAIN} sharding=fsdp",
    "and activations kept, as in the file": _TWO_8,
}


def commands() -> list[str]:
    """Every command of the page, once."""
    paper = [command for both in PAPER.values() for command in both]
    return list(dict.fromkeys([*paper, *STATED.values(), *LEVERS.values(), *MEMORY.values()]))


_COUNTED: dict[tuple[Any, ...], Bill] = {}


def figures(command: str) -> dict[str, Any]:
    """What `vlv cost COMMAND --json` gives."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--gpu")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--price", type=float)
    parser.add_argument("--encoder-image-size", type=int)
    given, overrides = parser.parse_known_args(shlex.split(command))
    size = given.encoder_image_size
    key = (given.config, size, given.gpus, *overrides)
    if key not in _COUNTED:
        _COUNTED[key] = price_run(
            DOCS.parent / given.config,
            overrides,
            gpu=gpu_named(given.gpu),
            processes=given.gpus,
            encoder_image_size=size,
        )
    return bill_json(replace(_COUNTED[key], gpu=gpu_named(given.gpu), price=given.price))


def render(page: str, found: dict[str, dict[str, Any]]) -> str:
    """The page with its generated parts made anew."""
    made = {
        "paper": _paper_table(found),
        "stated": _stated_table(found),
        "levers": _lever_table(found),
        "memory": _memory_table(found),
        "shares": _shares(found[_ONE]),
        "assumed": "\n".join(f"- {line}" for line in _assumed(found)),
        "commands": _command_block(),
    }
    return _GENERATED.sub(lambda mark: f"{mark[1]}\n\n{made[mark[2]]}\n\n<!-- end -->", page)


def _shares(made: dict[str, Any]) -> str:
    parts = {name: sum(part.values()) for name, part in made["sample_flops"].items()}
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count / sum(parts.values()):.0%}" for name, count in ordered) + "."


def _assumed(found: dict[str, dict[str, Any]]) -> list[str]:
    """What the rows assume, once each; peaks differ between GPUs."""
    lines = [line for made in found.values() for line in made["assumed"]]
    return list(dict.fromkeys(line.replace("(", "(`").replace(")", "`)") for line in lines))


def _command_block() -> str:
    lines = "\n".join(f"vlv cost {command}" for command in commands())
    return f"```bash\n# needs: a minute each\n{lines}\n```"


def _paper_table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| encoder px | GPU | USD an hour | stage 1, hours | stage 2, hours | together, USD |"]
    lines.append("|---|---|---|---|---|---|")
    for (size, gpu), both in PAPER.items():
        hours = [found[command]["gpu_hours"] for command in both]
        usd = sum(found[command]["usd"] for command in both)
        name = found[both[0]]["gpu"]["name"]
        lines.append(
            f"| {size} | {name} | {GPUS[gpu]:g} | {hours[0]:,.0f} | {hours[1]:,.0f} | {usd:,.0f} |"
        )
    return "\n".join(lines)


def _stated_table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| encoder px | days | GPU hours | TFLOP/s of a GPU that 768 GPU hours would need |"]
    lines.append("|---|---|---|---|")
    for size, command in STATED.items():
        made = found[command]
        days = made["seconds"]["total"] / 86400
        needed = made["flops"]["training"] / 768 / 3600 / 1e12
        lines.append(f"| {size} | {days:.1f} | {made['gpu_hours']:,.0f} | {needed:.0f} of 91.1 |")
    return "\n".join(lines)


def _lever_table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| | TFLOP a draw of noise | GiB | GPU hours | USD |", "|---|---|---|---|---|"]
    for label, command in LEVERS.items():
        made = found[command]
        # The run has as many draws in each row.
        draw = made["flops"]["training"] / found[_ONE]["samples"] / 1e12
        memory = made["memory"]["total"] / 2**30
        lines.append(
            f"| {label} | {draw:.2f} | {memory:.0f} | {made['gpu_hours']:,.0f} | "
            f"{made['usd']:,.0f} |"
        )
    return "\n".join(lines)


def _memory_table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| | weights | gradients | moments | at most, GiB | checkpoint, GB |"]
    lines.append("|---|---|---|---|---|---|")
    for label, command in MEMORY.items():
        memory, disk = found[command]["memory"], found[command]["disk"]
        sizes = [
            memory["trainable"] + memory["frozen"],
            *(memory[name] for name in ("gradients", "optimizer", "total")),
        ]
        cells = [*(f"{size / 2**30:.1f}" for size in sizes), f"{disk['checkpoint'] / 1e9:.1f}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", action="store_true", help="count every row again")
    parser.add_argument("--missing", action="store_true", help="count the rows that are not there")
    given = parser.parse_args()
    if given.count or given.missing:
        there = json.loads(FIGURES.read_text(encoding="utf-8")) if given.missing else {}
        made = {}
        for command in commands():
            made[command] = there[command] if command in there else figures(command)
            print(command, flush=True)
            # Row by row, so that a count that was cut off goes on with --missing.
            FIGURES.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    found = json.loads(FIGURES.read_text(encoding="utf-8"))
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
