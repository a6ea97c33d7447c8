"""The paper's model at full size with random bfloat16 weights on the CPU: does it run, and in what.

    python benchmarks/full_size.py [--json FILE]

One caption of 8 tokens, one denoising step of a reconstruction, and one step of stage 1 (encoder
trained, AdamW) on one photograph. Takes minutes, 24 GB of memory at most, and no download; what it
draws and writes is noise. Peak memory is of the whole process, after each part.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from skimage import data

from vlv.checkpoints.published import DECODER_IMAGE_SIZE
from vlv.checkpoints.skeleton import skeleton
from vlv.models.preprocessing import decoder_pixels
from vlv.pipeline import VLV

DTYPE = torch.bfloat16


def run() -> dict[str, Any]:
    """Everything once; seconds and gigabytes."""
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "dtype": "bfloat16"}
    photograph = Image.fromarray(data.astronaut())
    with measured(figures, "build"):
        torch.manual_seed(0)
        model = skeleton(device="cpu", dtype=DTYPE)
        model.encoder.settings = model.encoder.settings.model_copy(
            update={"crop_size": DECODER_IMAGE_SIZE}
        )
        boxes = (model.encoder, model.text_tower, model.decoder, model.caption_decoder)
        for box in boxes:
            box.requires_grad_(False).eval()
    figures["parameters"] = sum(p.numel() for box in boxes for p in box.parameters())
    with measured(figures, "caption"):
        z = model.encode(photograph)
        (made,) = model.caption_decoder.generate(
            model.read(z), num_beams=1, max_new_tokens=8, min_new_tokens=8
        )
    figures["caption"]["tokens"] = made.tokens
    with measured(figures, "reconstruction"):
        drawn = model.reconstruct(
            z, seeds=[0], guidance_scale=2.0, num_inference_steps=1, scheduler="ddpm"
        ).images[0]
    figures["reconstruction"]["size"] = list(drawn.size)
    with measured(figures, "stage1"):
        figures["stage1"] = stage1_step(model, photograph)
    return figures


def stage1_step(model: VLV, photograph: Image.Image) -> dict[str, Any]:
    """One step on the denoising loss; only the encoder may move."""
    frozen = {name: checksum(module) for name, module in frozen_parts(model).items()}
    before = model.encoder.queries.detach().clone()
    model.encoder.requires_grad_(True).train()
    pixels = torch.from_numpy(decoder_pixels(photograph, DECODER_IMAGE_SIZE))
    target = pixels.permute(2, 0, 1)[None].to(DTYPE) / 127.5 - 1
    with torch.no_grad():
        latents = model.decoder.encode_images(target)
    c = model.text_tower(model.encoder(model.encoder.preprocess([photograph])))
    noise = torch.randn(latents.shape, dtype=DTYPE)
    loss = model.decoder.denoising_loss(latents, c, noise, torch.tensor([500])).mean()
    loss.backward()
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=5e-5, foreach=False)
    optimizer.step()
    return {
        "loss": float(loss.detach()),
        "queries_moved": not torch.equal(before, model.encoder.queries),
        "frozen_moved": [
            name
            for name, module in frozen_parts(model).items()
            if not torch.equal(checksum(module), frozen[name])
        ],
    }


def frozen_parts(model: VLV) -> dict[str, torch.nn.Module]:
    return {"T": model.text_tower, "VAE": model.decoder.vae, "U-Net": model.decoder.unet}


def checksum(module: torch.nn.Module) -> torch.Tensor:
    """Sums of the bits of each parameter: one changed bit changes it."""
    return torch.stack([p.detach().view(torch.int16).sum() for p in module.parameters()])


@contextmanager
def measured(figures: dict[str, Any], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    taken = {
        "seconds": round(time.perf_counter() - start, 1),
        # Linux counts in KiB.
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    figures[name] = {**figures.get(name, {}), **taken}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    figures = run()
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
