"""Time of one training step of the mini U-Net: fused against plain attention, float32 and bfloat16.

    python benchmarks/attention.py [--threads 2] [--steps 5] [--batch 64]

All four variants run in turn in one process; the median step and the share of the processor's
measured matrix-product rate are printed.
"""

import argparse
import contextlib
import statistics
import time

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch.utils.flop_counter import FlopCounterMode

from vlv.models.model_config import VLVConfig
from vlv.training.reproduce import configs_folder


def matrix_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a 2048 x 2048 x 2048 product."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / statistics.median(times[1:]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        **VLVConfig.from_yaml(configs_folder() / "mini" / "model.yaml").unet
    )
    side, channels = unet.config.sample_size, unet.config.in_channels
    latents = torch.randn(options.batch, channels, side, side)
    timesteps = torch.randint(0, 1000, (options.batch,))
    c = torch.randn(options.batch, 77, unet.config.cross_attention_dim)

    def step(dtype: torch.dtype) -> None:
        with (
            torch.autocast("cpu", dtype=dtype)
            if dtype == torch.bfloat16
            else contextlib.nullcontext()
        ):
            loss = unet(latents, timesteps, c).sample.float().square().mean()
        loss.backward()
        unet.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step(torch.float32)
    gflop = counter.get_total_flops() / 1e9
    variants = [
        (dtype, kernel)
        for dtype in (torch.float32, torch.bfloat16)
        for kernel in (AttnProcessor2_0, AttnProcessor)
    ]
    times: dict[tuple[torch.dtype, type], list[float]] = {variant: [] for variant in variants}
    for _ in range(options.steps + 1):
        for dtype, kernel in variants:
            unet.set_attn_processor(kernel())
            start = time.perf_counter()
            step(dtype)
            times[dtype, kernel].append(time.perf_counter() - start)
    print(f"{gflop:.0f} GFLOP a step, batch {options.batch}, {options.threads} threads")
    for (dtype, kernel), seconds in times.items():
        median = statistics.median(seconds[1:])
        share = gflop / median / matrix_rate(dtype)
        name = "fused" if kernel is AttnProcessor2_0 else "plain"
        print(f"{dtype!s:15} {name}: {median * 1e3:6.0f} ms, {share:.0%} of the matrix rate")


if __name__ == "__main__":
    main()
