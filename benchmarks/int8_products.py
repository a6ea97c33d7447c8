"""CPU time of one matrix product in float32, bfloat16 and 8 bits, by several kernels.

    python benchmarks/int8_products.py [--inputs 2048] [--outputs 11008] [--json FILE]

The sizes are those of the 3B language model's widest matrix. Needs bitsandbytes; torchao is timed
where it is installed. One thread, in turns; the median of five, in milliseconds of CPU time.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import bitsandbytes as bnb
import torch
from torch import Tensor, nn

from vlv.models.int8 import Int8Linear

Ways = dict[str, tuple[torch.dtype, Callable[[Tensor], Tensor]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2048)
    parser.add_argument("--outputs", type=int, default=11008)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ways = ways_of(torch.randn(options.outputs, options.inputs) * 0.02)
    times = [timed(ways, rows, options.inputs) for rows in options.rows]
    found = {name: [one[name] for one in times] for name in ways}
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{one:.1f}" for one in row) + " |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def ways_of(weight: Tensor) -> Ways:
    """Products with one weight matrix (O,I), each with the dtype of its inputs."""
    outputs, inputs = weight.shape
    full, half = torch.float32, torch.bfloat16
    scales = weight.abs().amax(1) / 127
    rounded = (weight / scales[:, None]).round().to(torch.int8)
    eight = bnb.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
    eight.weight = bnb.nn.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False)
    four = bnb.nn.Linear4bit(inputs, outputs, False, half, quant_type="nf4")
    four.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4")
    ways: Ways = {
        "float32": (full, linear(weight, full)),
        "bfloat16": (half, linear(weight, half)),
        "int8, as used here (oneDNN)": (half, Int8Linear(linear(weight, half))),
        "int8 weights, bfloat16 inputs (`torch._weight_int8pack_mm`)": (
            half,
            lambda x: torch._weight_int8pack_mm(x, rounded, scales.to(half)),
        ),
        "bitsandbytes, 8bit": (half, eight.to("cpu")),
        "bitsandbytes, 4bit": (half, four.to("cpu")),
    }
    if find_spec("torchao") is not None:
        from torchao import quantization

        for name, config in (
            ("weights only", quantization.Int8WeightOnlyConfig()),
            ("weights and inputs", quantization.Int8DynamicActivationInt8WeightConfig()),
        ):
            model = nn.Sequential(linear(weight, half))
            quantization.quantize_(model, config)
            ways[f"torchao, int8 {name}, bfloat16"] = (half, model)
    return ways


def linear(weight: Tensor, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    layer.weight.data = weight.to(dtype)
    return layer


@torch.inference_mode()
def timed(ways: Ways, rows: int, inputs: int) -> dict[str, float]:
    """Milliseconds of each product with so many rows of inputs."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(6):
        for name, (dtype, product) in ways.items():
            x = torch.randn(rows, inputs, dtype=dtype)
            begun = time.process_time()
            for _ in range(5):
                product(x)
            if repetition:  # the first one warms up
                spent[name].append((time.process_time() - begun) / 5 * 1000)
    return {name: statistics.median(times) for name, times in spent.items()}


if __name__ == "__main__":
    main()
