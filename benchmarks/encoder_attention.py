"""CPU time of Florence-2's parts at full width with fused and with plain attention.

    python benchmarks/encoder_attention.py [--repetitions 5] [--sides 768 384] [--json FILE]

Random weights, one block a stage and one layer a transformer, one thread. Both attentions run in
turns in one process; prints the median CPU seconds and the ratio of fused to plain for each part.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import Florence2Config, Florence2Model

from vlv.checkpoints.published import default_base_model, known_base_models

# Tokens of an image of 768 px and of the prompt, whatever size the vision tower is given.
SEQUENCE = 590
QUERIES = 77


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[768])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        model = florence().to(dtype).eval()
        for side in options.sides:
            for part, spent in timed(model, side, options.repetitions).items():
                fused, plain = (statistics.median(spent[kind]) for kind in ("sdpa", "eager"))
                rows.append(
                    {
                        "dtype": str(dtype)[6:],
                        "side": side,
                        "part": part,
                        "fused": round(fused, 3),
                        "plain": round(plain, 3),
                        "ratio": round(fused / plain, 3),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def florence() -> Florence2Model:
    """The published sizes with one block or layer of each."""
    base = known_base_models("encoder")[default_base_model("encoder")]
    config = copy.deepcopy(base.config)
    config["vision_config"]["depths"] = [1, 1, 1, 1]
    config["text_config"] |= {"encoder_layers": 1, "decoder_layers": 1}
    torch.manual_seed(0)
    return Florence2Model(Florence2Config(**config))


@torch.inference_mode()
def timed(model: Florence2Model, side: int, repetitions: int) -> dict[str, dict[str, list[float]]]:
    """CPU seconds of each part with each attention; the first turn warms up."""
    dtype, width = model.dtype, model.config.text_config.d_model
    pixels = torch.randn(1, 3, side, side, dtype=dtype)
    x = torch.randn(1, SEQUENCE, width, dtype=dtype)
    queries = torch.randn(1, QUERIES, width, dtype=dtype)
    transformer = model.language_model
    parts = {
        "vision tower": lambda: model.get_image_features(pixels),
        "encoder": lambda: transformer.encoder(inputs_embeds=x),
        "decoder": lambda: transformer.decoder(
            inputs_embeds=queries, encoder_hidden_states=x, use_cache=False
        ),
    }
    spent: dict[str, dict[str, list[float]]] = {part: {"sdpa": [], "eager": []} for part in parts}
    for repetition in range(repetitions + 1):
        for kind in ("sdpa", "eager"):
            model.set_attn_implementation(kind)
            for part, run in parts.items():
                begun = time.process_time()
                run()
                if repetition:
                    spent[part][kind].append(time.process_time() - begun)
    return spent


if __name__ == "__main__":
    main()
