"""Seconds for a caption by every engine, at the size and length that real captions have.

    python benchmarks/engines.py [--size 3b|0.5b|tiny] [--engines NAME ...] [--new-tokens 250]
        [--images 64] [--threads 2] [--repetitions 1] [--dtype bfloat16] [--beams]
        [--device cpu|cuda] [--json FILE]

One model for all: Florence-2 and CLIP at full width with few layers, a language model with all
layers of Qwen2.5-3B or 0.5B, random weights. Every image gets a caption of exactly --new-tokens
tokens by greedy decoding, from the same z; --beams adds the authors' 4 beams. The engines take
turns, each in a process of its own that loads the model and writes one caption before it is timed.
Each works on as many images as it needs to be full: its batch, or --images.

The limit is what the machine's measured rates allow: for each token, the bytes of the weights
read once for all rows of a batch, or the operations of all rows and of their prompts, whichever
takes longer. llama.cpp's names end with the captions written at once, where that is not 32;
plain-llama.cpp is llama-cpp-python's own `generate`, one caption at a time, on a prompt of as many
token ids. vLLM and llama.cpp need an environment of their own (see docs/engines.md); without one,
name the others with --engines. Encoding is timed apart, on two images, for both sides, which take
turns: CPU seconds of all threads, so that other programs do not count. --engines without a name
times nothing else.

--device cuda is for a GPU, without llama.cpp, which computes on the CPU here; encoding then is in
seconds of the clock.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from measuring import DTYPES, Limits
from plain_authors import PlainAuthors
from recording import recorded
from reduced import photographs, write_model
from safetensors.torch import load_file
from torch import Tensor

from vlv.checkpoints.gguf import export_gguf
from vlv.checkpoints.parts import GGUF_FILE
from vlv.checkpoints.prompt_parts import load_prompt_parts
from vlv.checkpoints.published import known_base_models
from vlv.inference.engine_choice import EngineChoice
from vlv.inference.engines.engine import CaptionEngine, RequestFailed
from vlv.inference.engines.prompts import Prompts
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.transformers import TransformersEngine
from vlv.inference.loading import open_model
from vlv.pipeline import VLV

AUTHORS_BATCH, BEAMS = 2, 4
SIZES = {"3b": "Qwen/Qwen2.5-3B", "0.5b": "Qwen/Qwen2.5-0.5B", "tiny": None}
ENGINES = (
    "authors",
    "transformers-2",
    "transformers-16",
    "transformers-64",
    "vllm",
    "llama.cpp-q8_0",
    "llama.cpp-q4_k_m",
    "llama.cpp-q4_k_m-1",
    "plain-llama.cpp-q4_k_m",
)
# Captions that llama.cpp writes at once, unless the name says otherwise.
LLAMA_CPP_ROWS = 32
Write = Callable[[Tensor, int], int]
"""Writes captions of so many tokens for z (B,Q,d); returns the tokens that were written."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    limits = Limits.measure(quick=options.size == "tiny", device=options.device)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        facts = _write_models(folder, options)
        facts["limits"] = limits.facts(options.threads)
        figures: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.repetitions):
            for engine in options.engines:
                made = _in_a_process(engine, folder, options)
                figures.setdefault(engine, []).append(made)
                print(f"{engine}: {made['seconds']:.2f} s an image", file=sys.stderr, flush=True)
        encoding = _in_a_process("encoding", folder, options)
        rows = [
            _row(engine, each, Weights.of(engine, folder), limits, options)
            for engine, each in figures.items()
        ]
    result = {"rows": rows, "encoding": encoding, "facts": facts, "options": recorded(options)}
    print(markdown(result))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=1, default=str) + "\n"
        options.json.write_text(text, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SIZES), default="0.5b")
    known = (*ENGINES, "llama.cpp-f16", "llama.cpp-q8_0-1", "plain-llama.cpp-q8_0")
    parser.add_argument("--engines", nargs="*", choices=known, help="all without this option")
    parser.add_argument("--new-tokens", type=int, default=250)
    parser.add_argument("--images", type=int, default=64, help="for engines without a batch size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--beams", action="store_true", help="also the authors' 4 beams")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where the model is written meanwhile")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    on_cpu = torch.device(options.device).type == "cpu"
    if options.engines is None:
        options.engines = [one for one in ENGINES if on_cpu or _quantize(one) is None]
    elif not on_cpu and any(map(_quantize, options.engines)):
        parser.error("llama.cpp computes on the CPU here; leave it out, or leave --device out")
    if options.beams:
        options.engines.append("authors-beams")
    return options


def _write_models(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    base = SIZES[options.size]
    language = None if base is None else known_base_models("language_model")[base].config
    size = "tiny" if base is None else "full-width"
    facts = write_model(
        folder / "model",
        size,
        captions=True,
        language_model=language,
        dtype=DTYPES[options.dtype],
    )
    photographs(folder / "photographs", 2, size)
    for quantize in {_quantize(engine) for engine in options.engines} - {None}:
        kind: Any = quantize
        export_gguf(open_model(folder / "model", device="cpu"), folder / kind, kind)
    return facts


def _quantize(engine: str) -> str | None:
    """The kind of GGUF file that an engine runs."""
    if "llama.cpp-" not in engine:
        return None
    return engine.partition("llama.cpp-")[2].removesuffix("-1")


def _in_a_process(engine: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What `_measure` finds in a fresh process, whose memory is free again afterwards."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(engine, folder, options, theirs))
    process.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        raise SystemExit(f"{engine} ended without a figure") from None
    finally:
        process.join()
    return found


def _measure(engine: str, folder: Path, options: argparse.Namespace, answer: Any) -> None:
    torch.set_num_threads(options.threads)
    kind = folder / (_quantize(engine) or "model")
    model = open_model(kind, dtype=options.dtype, device=options.device).as_kind(VLV)
    if engine == "encoding":
        answer.send(_encoding(model, sorted((folder / "photographs").iterdir())))
        return
    count = _images(engine, options)
    positions = model.encoder.queries.shape[1]
    z = torch.randn(
        count, positions, model.text_tower.width, generator=torch.Generator().manual_seed(0)
    ).to(model.device, model.dtype)
    begun = time.perf_counter()
    write, close = _writer(engine, model)
    loading = time.perf_counter() - begun
    write(z[:1], min(4, options.new_tokens))
    begun = time.perf_counter()
    tokens = write(z, options.new_tokens)
    seconds = time.perf_counter() - begun
    close()
    if tokens != count * options.new_tokens:
        raise SystemExit(f"{engine} wrote {tokens} tokens, not {count * options.new_tokens}")
    answer.send({"seconds": seconds / count, "images": count, "loading": loading})


def _images(engine: str, options: argparse.Namespace) -> int:
    """How many images an engine captions: two for the authors, a full batch for transformers."""
    if engine.startswith("authors"):
        return AUTHORS_BATCH
    if engine.startswith("transformers-"):
        return int(engine.removeprefix("transformers-"))
    if engine.startswith("plain-") or engine.endswith("-1"):
        return 1
    images: int = options.images
    return images


def _encoding(model: VLV, files: list[Path]) -> dict[str, float]:
    """Seconds of two images from their files to z, for one of them; the sides take turns. CPU
    seconds of all threads, or on an accelerator those of the clock.
    """
    now = time.process_time if model.device.type == "cpu" else time.perf_counter
    sides = {"authors": PlainAuthors(model).embed, "ours": lambda some: _ours(model, some)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(4):
        for name, embed in sides.items():
            begun = now()
            embed(files).cpu()
            times[name].append((now() - begun) / len(files))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def _ours(model: VLV, files: list[Path]) -> Tensor:
    from vlv.data.images import load_image

    return model.encode([load_image(file) for file in files])


def _writer(engine: str, model: VLV) -> tuple[Write, Callable[[], None]]:
    if engine.startswith("authors"):
        plain = PlainAuthors(model)
        beams = BEAMS if engine == "authors-beams" else 1
        return lambda z, tokens: _by_the_authors(plain, z, beams, tokens), lambda: None
    if engine.startswith("plain-"):
        return _plain_llama_cpp(load_prompt_parts(model).language_model / GGUF_FILE)
    if engine.startswith("transformers-"):
        rows = int(engine.removeprefix("transformers-"))
        running: CaptionEngine = TransformersEngine(model.caption_decoder, rows)
        prompts = Prompts.of(model.caption_decoder)
    else:
        opened = EngineChoice("vllm" if engine == "vllm" else "llama.cpp").open(model)
        assert opened[0] is not None
        running, prompts = opened
    return lambda z, tokens: _by_an_engine(running, prompts, model, z, tokens), running.close


def _plain_llama_cpp(file: Path) -> tuple[Write, Callable[[], None]]:
    """llama-cpp-python as its own page shows it: token ids in, the most likely tokens out."""
    from llama_cpp import Llama

    llama = Llama(str(file), n_ctx=1024, n_threads=torch.get_num_threads(), verbose=False)
    llama.n_threads_batch = torch.get_num_threads()

    def write(z: Tensor, tokens: int) -> int:
        prompt = list(range(100, 100 + z.shape[1]))
        return len(list(islice(llama.generate(prompt, temp=0.0), tokens)))

    return write, llama.close


def _by_the_authors(plain: PlainAuthors, z: Tensor, beams: int, tokens: int) -> int:
    """Their call of `generate`; captions of random weights end by chance once in 150,000 tokens."""
    plain.caption(z, beams, tokens)
    return len(z) * tokens


def _by_an_engine(
    engine: CaptionEngine, prompts: Prompts, model: VLV, z: Tensor, tokens: int
) -> int:
    """From z, as `vlv caption` does: text tower and psi for all, and steps until all are done."""
    sampling = Sampling(max_new_tokens=tokens, min_new_tokens=tokens)
    for key, e in enumerate(prompts.embed(model.read(z))):
        engine.add(key, e, sampling)
    written = finished = 0
    while finished < len(z):
        for event in engine.step():
            if isinstance(event, RequestFailed):
                raise SystemExit(event.message)
            written += len(event.ids)
            finished += event.finish is not None
    return written


@dataclass(frozen=True)
class Weights:
    """Of a language model: bytes that every token reads, values that they hold, those of them that
    are not in the head, and positions of a prompt. The head is the table of embeddings.
    """

    bytes: int
    values: float
    layers: float
    prompt: int

    @classmethod
    def of(cls, engine: str, folder: Path) -> "Weights":
        lm = folder / "model/caption_decoder/language_model"
        files = list(lm.glob("*.safetensors"))
        config = json.loads((lm / "config.json").read_text())
        head = config["vocab_size"] * config["hidden_size"]
        values = sum(tensor.numel() for file in files for tensor in load_file(file).values())
        encoder = json.loads((folder / "model/encoder/vlv_encoder.json").read_text())
        if (quantize := _quantize(engine)) is not None:
            files = [folder / quantize / "caption_decoder/language_model" / GGUF_FILE]
        size = sum(file.stat().st_size for file in files)
        return cls(size, values, values - head, encoder["num_queries"])


def _row(
    engine: str,
    figures: list[dict[str, Any]],
    weights: "Weights",
    limits: Limits,
    options: argparse.Namespace,
) -> dict[str, Any]:
    times = [one["seconds"] for one in figures]
    rows = min(_images(engine, options), _rows_at_once(engine))
    beams = BEAMS if engine == "authors-beams" else 1
    # Operations of one image's tokens and prompt, and its share of reading the weights.
    work = 2.0 * (weights.values * options.new_tokens * beams + weights.layers * weights.prompt)
    read = weights.bytes / rows * options.new_tokens
    seconds = statistics.median(times)
    return {
        "engine": engine,
        "rows": rows,
        "images": figures[0]["images"],
        "seconds": seconds,
        "range": [min(times), max(times)],
        "loading": statistics.median(one["loading"] for one in figures),
        "gigabytes": weights.bytes / 1e9,
        "limit": limits.seconds(work, options.dtype, read),
        "limited_by": "reading" if _reads(limits, work, read, options) else "computing",
    }


def _rows_at_once(engine: str) -> int:
    """Captions that share one reading of the weights."""
    return 64 if _quantize(engine) is None else LLAMA_CPP_ROWS


def _reads(limits: Limits, work: float, read: float, options: argparse.Namespace) -> bool:
    return read / limits.read_rate >= work / limits.matrix_rate[options.dtype]


def markdown(result: dict[str, Any]) -> str:
    """The table, and a line for each thing that it says in words."""
    plain = next((row for row in result["rows"] if row["engine"] == "authors"), None)
    heads = ["engine", "captions at once", "weights, GB", "seconds an image", "authors / this"]
    heads += ["limit, s", "limited by", "of the limit"]
    lines = [heads, ["---", *["---:"] * 5, "---", "---:"]]
    for row in result["rows"]:
        faster = "" if plain is None else f"{plain['seconds'] / row['seconds']:.2f}"
        low, high = row["range"]
        several = f" ({low:.2f} to {high:.2f})" if low != high else ""
        lines.append(
            [
                row["engine"],
                str(row["rows"]),
                f"{row['gigabytes']:.2f}",
                f"{row['seconds']:.2f}{several}",
                faster,
                f"{row['limit']:.2f}",
                row["limited_by"],
                f"{row['limit'] / row['seconds']:.0%}",
            ]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    encoding = ", ".join(f"{side} {time:.2f} s" for side, time in result["encoding"].items())
    facts = {**result["facts"], "encoding of an image, with few layers": encoding}
    said = "\n".join(f"- {name}: {words}" for name, words in facts.items())
    return f"{table}\n\n{said}"


if __name__ == "__main__":
    main()
