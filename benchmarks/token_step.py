"""The CPU time of one token on random weights of a 0.5B shape: caches, attention, precision.

    python benchmarks/token_step.py [--layers 24] [--tokens 24] [--batches 1 16]
        [--dtypes float32 bfloat16] [--ways NAME ...] [--compile] [--json FILE]

Every way writes the same number of tokens after a prompt as long as a caption is on average, in
turns within one process; all rows have the same prompt. Prints the median CPU seconds of a token
step (all threads together) and of one row's part, and the ratio to the first way.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from vlv.inference.engines import packing
from vlv.inference.engines import transformers as engine_module
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.transformers import TransformersEngine
from vlv.models.caption_decoder import CaptionDecoder
from vlv.pipeline import VLV

# Positions of e, and half of a caption of 250 tokens.
PROMPT = 77 + 125


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--ways", nargs="+", help="only these")
    parser.add_argument("--compile", action="store_true", help="also the compiled step")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for dtype in options.dtypes:
        decoder = half_billion(options.layers, getattr(torch, dtype))
        for batch in options.batches:
            ways = ways_of(decoder, batch, options.compile)
            if options.ways:
                ways = {name: ways[name] for name in options.ways}
            rows += [
                {"dtype": dtype, "batch": batch, **row}
                for row in timed(ways, batch, options.tokens, options.repetitions)
            ]
            for row in rows[-len(ways) :]:
                print(json.dumps(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def half_billion(layers: int, dtype: torch.dtype) -> CaptionDecoder:
    """Qwen2.5-0.5B's shape with random weights, and the mini model's tokenizer."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    lm = Qwen2ForCausalLM(config).to(dtype).eval()
    tokenizer = VLV.from_pretrained("vlv-mini").caption_decoder.tokenizer
    return CaptionDecoder(lm, tokenizer, 32).to(dtype).eval()


def ways_of(
    decoder: CaptionDecoder, batch: int, compiles: bool
) -> dict[str, Callable[[int], None]]:
    """Each writes a number of tokens in every row of a batch."""
    e = torch.randn(1, PROMPT, 896).to(decoder.lm.dtype) * 0.02

    def engine(count: int, attention: str = "sdpa") -> None:
        decoder.lm.set_attn_implementation(attention)
        one = TransformersEngine(decoder, batch)
        one.add(0, e[0], Sampling(count + 1, min_new_tokens=count + 1, sequences=batch))
        while one.step():
            pass
        one.close()

    def copying(count: int) -> None:
        with patch.object(engine_module, "share_keys"):
            engine(count)

    def unpacked(count: int) -> None:
        with patch.object(packing, "gains_from_packing", return_value=False):
            engine(count)

    @torch.inference_mode()
    def generate(count: int, cache: str | None = None) -> None:
        config = GenerationConfig(
            max_new_tokens=count + 1,
            min_new_tokens=count + 1,
            cache_implementation=cache,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=0,
            disable_compile=True,
        )
        decoder.lm.set_attn_implementation("sdpa")
        mask = torch.ones(batch, PROMPT, dtype=torch.long)
        decoder.lm.generate(
            inputs_embeds=e.expand(batch, -1, -1), attention_mask=mask, generation_config=config
        )

    ways: dict[str, Callable[[int], None]] = {
        "generate": generate,
        "generate, static cache": lambda count: generate(count, "static"),
        "engine": engine,
        "engine, plain attention": lambda count: engine(count, "eager"),
        "engine, the library's attention": copying,
        "engine, plain weights": unpacked,
    }
    if compiles:
        plain = decoder.lm.base_model.forward
        quick = torch.compile(plain, dynamic=True)

        def compiled(count: int) -> None:
            decoder.lm.base_model.forward = quick
            unpacked(count)
            decoder.lm.base_model.forward = plain

        ways["engine, compiled step, plain weights"] = compiled
    return ways


def timed(
    ways: dict[str, Callable[[int], None]], batch: int, tokens: int, repetitions: int
) -> list[dict[str, object]]:
    """The seconds of a step: what `tokens` more take than one."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name, write in ways.items():
            spent = []
            for count in (1, 1 + tokens):
                begun = time.process_time()
                write(count)
                spent.append(time.process_time() - begun)
            if repetition:  # the first one warms up
                found[name].append((spent[1] - spent[0]) / tokens)
    first = statistics.median(next(iter(found.values())))
    return [
        {
            "way": name,
            "seconds": round(statistics.median(times), 4),
            "of a row": round(statistics.median(times) / batch, 4),
            "ratio": round(statistics.median(times) / first, 3),
        }
        for name, times in found.items()
    ]


if __name__ == "__main__":
    main()
