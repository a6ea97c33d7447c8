"""Writes the tables of docs/cost.md: what the paper's recipe costs, row by row from `vlv cost`.

    python docs/cost.py            renders them from docs/cost.json
    python docs/cost.py --count    counts every row again first, which takes minutes

Rows that differ in GPU and price alone are counted once.
"""

import argparse
import json
import re
import shlex
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Row:
    """A line of a table: what it is, and the command that counts it."""

    label: str
    command: str


_ONE = "configs/paper/stage1-80gb.yaml --gpu h100 --price 2.5"
_TWO = "configs/paper/stage2-80gb.yaml --gpu h100 --price 2.5"
_384 = "--encoder-image-size 384"
_KEPT = "gradient_checkpointing=false train_batch_size=8 gradient_accumulation_steps=64"
_CACHED = f"{_KEPT} data.latents=data/latents"
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
LEVERS = [
    Row("bfloat16, gradient checkpointing (`stage1-80gb.yaml`)", _ONE),
    Row("activations kept, micro-batches of 8", f"{_ONE} {_KEPT}"),
    Row("and latents cached", f"{_ONE} {_CACHED}"),
    Row("and the encoder at 384 px", f"{_ONE} {_384} {_CACHED}"),
    Row(
        "and 4 draws of noise a picture in a quarter of the steps",
        f"{_ONE} {_384} {_CACHED} noise_draws=4 max_train_steps=50000",
    ),
]
LEVERS_2 = [
    Row("with the denoising loss (`stage2-80gb.yaml`)", _TWO),
    Row("without it, as the paper", STAGES[2, 768]),
]


def commands() -> list[str]:
    """Every command of the page, once."""
    paper = [command for both in PAPER.values() for command in both]
    levers = [row.command for row in (*LEVERS, *LEVERS_2)]
    return list(dict.fromkeys([*paper, *STATED.values(), *levers]))


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
        "levers": _lever_table(LEVERS, found),
        "levers-2": _lever_table(LEVERS_2, found),
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


def _lever_table(rows: list[Row], found: dict[str, dict[str, Any]]) -> str:
    lines = ["| | TFLOP a sample | memory, GiB | GPU hours | USD |", "|---|---|---|---|---|"]
    for row in rows:
        made = found[row.command]
        sample = sum(sum(part.values()) for part in made["sample_flops"].values()) / 1e12
        memory = made["memory"]["total"] / 2**30
        fits = "" if made["fits"] else ", does not fit"
        lines.append(
            f"| {row.label} | {sample:.2f} | {memory:.1f}{fits} | {made['gpu_hours']:,.0f} "
            f"| {made['usd']:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", action="store_true")
    if parser.parse_args().count:
        made = {}
        for command in commands():
            made[command] = figures(command)
            print(command, flush=True)
        FIGURES.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    found = json.loads(FIGURES.read_text(encoding="utf-8"))
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
