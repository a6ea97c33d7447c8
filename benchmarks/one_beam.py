"""What captions of one beam lose against 4 beams, on held-out scenes of the embedded world.

    python benchmarks/one_beam.py [--scenes 400] [--temperature 0.5] [--json FILE]
    python benchmarks/one_beam.py --quantizations int8 8bit 4bit [--scenes 200]

The second command compares greedy captions of quantized language models with those in float32.
Greedy, samples, and the most likely of 4 and 8 samples (mean log-probability a token, as beam
search ranks), each beside 4 beams on the same scenes. Precision: true claims of all claims; recall:
facts that are stated; objects: objects named with shape and colour; flawless: captions without a
wrong claim. Intervals are 95%, over scenes.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlv.data.world_sets import world_samples
from vlv.evaluation.metrics.captions import caption_ratios
from vlv.evaluation.metrics.statistics import Bootstrap
from vlv.inference.engines.engine import NewTokens
from vlv.inference.engines.prompts import Prompts
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.transformers import TransformersEngine
from vlv.models.caption_decoder import CaptionDecoder
from vlv.pipeline import VLV
from vlv.world.scene import sample_scene

COLUMNS = ("precision", "recall", "object_recall", "flawless", "words")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vlv-mini")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--quantizations", nargs="+", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = VLV.from_pretrained(options.model)
    samples = list(world_samples(options.scenes, seed=options.seed, split="test"))
    scenes = [sample_scene(one.meta["seed"], "test") for one in samples]
    c = model.read(model.encode([one.picture() for one in samples]))
    if options.quantizations:
        made = {"float32": greedy(model.caption_decoder, c)}
        for name in options.quantizations:
            other = VLV.from_pretrained(options.model, quantization=name)
            made[name] = greedy(other.caption_decoder, c)
    else:
        made = variants(model.caption_decoder, c, options.temperature)
    ratios = {name: caption_ratios(texts, scenes) for name, texts in made.items()}
    bootstrap = Bootstrap(len(scenes), options.seed)
    rows: dict[str, dict[str, Any]] = {}
    for name, columns in ratios.items():
        rows[name] = {}
        for column in COLUMNS:
            figure = bootstrap.figure(columns[column])
            rows[name][column] = [figure.value, figure.low, figure.high]
    print(f"| {len(scenes)} scenes | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, row in rows.items():
        cells = [f"{value:.4g} ({low:.4g} to {high:.4g})" for value, low, high in row.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def variants(decoder: CaptionDecoder, c: Tensor, temperature: float) -> dict[str, list[str]]:
    """The captions of each way, for c (n,Q,d_T)."""
    beams = [one.text for part in c.split(16) for one in decoder.generate(part, num_beams=4)]
    sampled = written(decoder, c, Sampling(temperature=temperature, sequences=8))
    found = {"4 beams": beams, "greedy": greedy(decoder, c), f"a sample at {temperature:g}": []}
    found[f"a sample at {temperature:g}"] = [texts[0] for texts, _ in sampled]
    for count in (4, 8):
        best = [texts[int(np.argmax(scores[:count]))] for texts, scores in sampled]
        found[f"most likely of {count} samples"] = best
    return found


def greedy(decoder: CaptionDecoder, c: Tensor) -> list[str]:
    """The captions of the most likely tokens."""
    return [texts[0] for texts, _ in written(decoder, c, Sampling())]


def written(
    decoder: CaptionDecoder, c: Tensor, sampling: Sampling
) -> list[tuple[list[str], list[float]]]:
    """The captions of each image, and the mean log-probability of their tokens."""
    prompts = Prompts.of(decoder)
    engine = TransformersEngine(decoder, 32)
    for key, e in enumerate(prompts.embed(c)):
        engine.add(key, e, Sampling(**{**vars(sampling), "seed": key}))
    ids: list[list[list[int]]] = [[[] for _ in range(sampling.sequences)] for _ in c]
    while events := engine.step():
        for event in events:
            assert isinstance(event, NewTokens)
            end = [int(decoder.tokenizer.eos_token_id)] if event.finish == "end" else []
            ids[event.key][event.sequence] += [*event.ids, *end]
    return [
        ([decoder.text_of(one) for one in some], [likelihood(decoder, c[at], one) for one in some])
        for at, some in enumerate(ids)
    ]


@torch.inference_mode()
def likelihood(decoder: CaptionDecoder, c: Tensor, ids: Sequence[int]) -> float:
    """Mean log-probability of the tokens of a caption of c (Q,d_T)."""
    log_probabilities = decoder.log_probabilities(c[None], ids)
    return float(log_probabilities[range(len(ids)), list(ids)].mean())


if __name__ == "__main__":
    main()
