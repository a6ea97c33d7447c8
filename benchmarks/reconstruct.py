"""Seconds for a picture drawn again: ours against a plain implementation of the authors' procedure.

    python benchmarks/reconstruct.py [--size full-width] [--threads 2] [--repetitions 3]
        [--steps 2] [--batches 2] [--json FILE]

Both draw the same JPEG files with the same random weights (`reduced.py`), sampler (DDPM), guidance
and noise, in turn in one process. In float32 both draw one picture; so they do in bfloat16, where
ours is also measured at the sizes of --batches. The pictures are compared. Nothing but the U-Net
and the sampler depends on the number of steps.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import DTYPES, OURS, PLAIN, Clock, Comparison, Limits, arguments, report
from PIL import Image
from plain_authors import PlainAuthors
from recording import recorded
from reduced import SIZES, photographs, write_model
from torch import Tensor

from vlv.data.images import load_image
from vlv.inference.encoding import encode_images
from vlv.inference.loading import open_model
from vlv.inference.presets import preset
from vlv.inference.reconstruction import Reconstructed, reconstruct_encoded
from vlv.inference.records import Encoded, ImageInput
from vlv.pipeline import VLV

BATCH = 1
GUIDANCE = 2.0
SEED = 0
# Levels of 255 between pictures that count as the same.
TOLERANCE = 1
STEP, VAE = "U-Net: a step", "VAE"


def main() -> None:
    parser = arguments(__doc__, SIZES)
    parser.add_argument("--steps", type=int, default=2, help="denoising steps of each picture")
    parser.add_argument("--batches", type=int, nargs="+", default=[2])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    limits = Limits.measure(quick=options.size == "tiny")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = write_model(folder / "model", options.size, captions=False)
        facts["limits"] = limits.facts(options.threads)
        facts["drawing"] = f"{options.steps} steps of DDPM, guidance {GUIDANCE}"
        files = photographs(folder / "photographs", max(BATCH, *options.batches), options.size)
        made: list[dict[str, Any]] = []
        work: dict[str, dict[str, float]] = {}
        for dtype in DTYPES:
            model = open_model(folder / "model", dtype=dtype, device="cpu")
            plain, ours = Plain(model, options.steps), Ours(model, options.steps)
            both = compared(model, plain, ours, dtype, options.steps)
            if dtype == "float32":
                work = both.count(files[:BATCH])
            batches = [BATCH, *(options.batches if dtype == "bfloat16" else [])]
            made += both.rows(files, batches, options.repetitions, work, limits)
            facts[f"pictures in {dtype}"] = _same(both.results[PLAIN], both.results[OURS])
            del model, plain, ours, both
    report({"rows": made, "facts": facts, "options": recorded(options)}, options.json)


class Plain(PlainAuthors):
    """The authors' procedure from files to pictures."""

    def __init__(self, model: VLV, steps: int) -> None:
        super().__init__(model)
        self.steps = steps

    def make(self, files: Sequence[Path]) -> list[Image.Image]:
        return self.draw(self.embed(files), self.steps, GUIDANCE, SEED)


class Ours:
    """What `vlv reconstruct --preset authors` does."""

    def __init__(self, model: VLV, steps: int) -> None:
        self.model = model
        self.settings = replace(preset("authors").drawing, num_inference_steps=steps, seed=SEED)

    def preprocess(self, files: Sequence[Path]) -> Tensor:
        return torch.cat([self.model.encoder.preprocess([load_image(one)]) for one in files])

    def make(self, files: Sequence[Path]) -> list[Image.Image]:
        batch, sources = len(files), map(ImageInput.of_file, files)
        encoded = encode_images(self.model, sources, batch_size=batch)
        good = [one for one in encoded if isinstance(one, Encoded)]
        drawn = reconstruct_encoded(self.model, good, self.settings, batch_size=batch)
        return [one.picture for one in drawn if isinstance(one, Reconstructed)]


def compared(model: VLV, plain: Plain, ours: Ours, dtype: str, steps: int) -> Comparison:
    """Both sides with a clock on the modules that they share, and on their two VAEs."""
    florence = model.encoder.florence
    clock = Clock()
    transformer = florence.language_model
    for part in (
        florence.vision_tower,
        transformer.encoder,
        transformer.decoder,
        model.encoder.phi,
    ):
        clock.watch("encoder", part)
    clock.watch("text tower, both contexts", model.text_tower.clip.encoder)
    clock.watch(STEP, model.decoder.unet)
    for vae in (model.decoder.vae, plain.vae):
        clock.watch(VAE, vae.decoder)
    return Comparison(
        plain, ours, clock, dtype, repeats={STEP: steps}, plain_dtypes={VAE: "float32"}
    )


def _same(plain: Sequence[Image.Image], ours: Sequence[Image.Image]) -> str:
    """Of the pictures that both drew last; ours may have drawn more of the same files."""
    pairs = zip(plain, ours, strict=False)
    apart = np.stack([np.abs(np.asarray(a).astype(int) - np.asarray(b)) for a, b in pairs])
    verdict = "the same" if apart.max() <= TOLERANCE else "they DIFFER"
    return (
        f"{verdict}; {apart.mean():.2g} levels of 255 apart on average, {apart.max()} at most "
        f"(the same: {TOLERANCE})"
    )


if __name__ == "__main__":
    main()
