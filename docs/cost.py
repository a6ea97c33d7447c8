"""Writes the tables of docs/cost.md: what the paper's recipe costs, row by row from `vlv cost`.

    python docs/cost.py            renders them from docs/cost.json
    python docs/cost.py --count    counts every row again first, which takes minutes

Rows that differ in GPU and price alone are counted once.
"""

import argparse
import json
import re
import shlex
from collections.abc import Callable
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
# What a lever leaves of the operations of a sample of stage 1, each after those above it.
LEVERS: dict[str, Callable[[str, dict[str, int]], int]] = {
    "as it is": lambda _, part: sum(part.values()),
    "activations kept, where memory allows it": lambda _, part: part["forward"] + part["backward"],
    "and latents cached (`data.latents`)": lambda name, part: (
        0 if name == "VAE" else part["forward"] + part["backward"]
    ),
    "and the vision tower frozen, as in the authors' code": lambda name, part: {
        "VAE": 0,
        "vision tower": part["forward"],
    }.get(name, part["forward"] + part["backward"]),
}


def commands() -> list[str]:
    """Every command of the page, once."""
    paper = [command for both in PAPER.values() for command in both]
    return list(dict.fromkeys([*paper, *STATED.values()]))


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
    sizes = (768, 384)
    heads = "".join(f" TFLOP a sample, {size} px | GPU hours | USD |" for size in sizes)
    lines = [f"| |{heads}", "|---|" + "---|---|---|" * len(sizes)]
    for label, left in LEVERS.items():
        cells = []
        for size in sizes:
            made = found[STAGES[1, size]]
            sample = sum(left(name, part) for name, part in made["sample_flops"].items())
            rate = made["gpu"]["bf16"] * 1e12 * made["mfu"]
            hours = sample * made["samples"] / rate / 3600
            cells += [f"{sample / 1e12:.2f}", f"{hours:,.0f}", f"{hours * made['price']:,.0f}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
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
