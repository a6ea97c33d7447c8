"""Writes the table of docs/evaluate_real.md: what each command on real images needs, by count.

    python docs/real_needs.py            renders it from docs/real_needs.json
    python docs/real_needs.py --count    counts the models again first

Nothing of it is measured. Operations are counted on the meta device, tokens by the rule of thumb
of `--dry-run`, and the assumptions are in the table of constants below and in the page.
"""

import argparse
import json
import re
import runpy
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
FIGURES, PAGE = DOCS / "real_needs.json", DOCS / "evaluate_real.md"
_GENERATED = re.compile(r"<!-- needs -->\n.*?<!-- end -->", re.DOTALL)

# USD: for an hour of an H100, as on the page on cost, and for a million tokens, as an example.
GPU_PRICE, INPUT_PRICE, OUTPUT_PRICE = 2.5, 0.3, 2.5
# Of an H100: operations a second, and bytes a second, of which so much is reached.
PEAK, BANDWIDTH, SHARE = 989e12, 3.35e12, 0.4
# Tokens of a detailed caption, as the paper's; of a question of VQA; of a list of ten boxes.
CAPTION, QUESTION, BOXES = 227, 12, 600
# Images of COCO in table 1; of COCO in table 2; questions of the validation splits.
TABLE_1, TABLE_2, VQAV2, OKVQA = 30_000, 200, 214_354, 5_046
CAPTIONERS = 3
# DOCCI-Critique: captions and sentences; words of a caption that are tested, with two others each.
CRITIQUE_CAPTIONS, CRITIQUE_SENTENCES, WORDS_TESTED = 1_400, 10_216, 40
DRAWN = 1_000
BEAMS, BATCH, STEPS = 4, 8, 50
# Of the pictures of table 1: steps and pixels of a side; the paper does not say the latter.
CAPTION_STEPS, SIDE = 40, 1024
# A step takes one pass at guidance 1, and two at 2, 3 and 4.
PASSES = 1 + 3 * 2


def count() -> dict[str, float]:
    """Operations and bytes of the paper's model, and of the pipeline of table 1, in bfloat16."""
    import torch

    from vlv.checkpoints.parts import CAPTIONING, DRAWING
    from vlv.checkpoints.sizes import model_sizes, weight_bytes
    from vlv.checkpoints.skeleton import skeleton
    from vlv.training.cost.flops import counting

    model = skeleton(language_model="Qwen/Qwen2.5-3B")
    sizes = model_sizes(model)

    def weights(*boxes: str) -> int:
        return sum(weight_bytes(sizes, boxes, 2).values())  # type: ignore[arg-type]

    side = model.encoder.settings.image_size
    latents = model.decoder.unet.config.sample_size
    with torch.no_grad(), counting() as counter:
        tokens = model.encoder.image_tokens(torch.zeros(1, 3, side, side, device="meta"))
        z = model.encoder.embed(tokens)
        encode = counter.get_total_flops()
        c = model.condition(z)
        noisy = torch.zeros(1, 4, latents, latents, device="meta")
        before = counter.get_total_flops()
        model.decoder.denoiser(noisy, torch.zeros(1, device="meta", dtype=torch.long), c)
        denoise = counter.get_total_flops() - before
    pictures = runpy.run_path(str(DOCS.parent / "benchmarks" / "picture_cost.py"))
    return {
        "pipeline_flop": pictures["sd35_step"](SIDE)[0],
        "pipeline_bytes": 2 * pictures["sd35_parameters"](),
        "encode_flop": encode,
        "denoise_flop": denoise,
        "language_model_bytes": weights("caption_decoder"),
        "captioning_bytes": weights(*CAPTIONING),
        "drawing_bytes": weights(*DRAWING),
        "all_bytes": weights("encoder", "text_tower", "decoder", "caption_decoder"),
    }


def table(counted: dict[str, float]) -> str:
    """The table in Markdown."""
    rows = [
        _captions(counted),
        *_pictures(counted),
        _arena(),
        _pairwise(),
        _human(),
        *_vqa(),
        _boxes(counted),
        _verify(counted),
        _pairs(counted),
    ]
    head = (
        "| command | for | GPU memory, weights | hours of one H100 | requests, tokens in and out "
        "| USD | the paper |"
    )
    return "\n".join([head, "|---" * 7 + "|", *(f"| {' | '.join(row)} |" for row in rows)])


def _seconds(flop: float) -> float:
    return flop / (SHARE * PEAK)


def _write_seconds(counted: dict[str, float], tokens: int) -> float:
    """Of a batch: every token reads the language model once, and computes it for each beam."""
    size = counted["language_model_bytes"]
    reading = size / (SHARE * BANDWIDTH)
    computing = _seconds(2 * (size / 2) * BEAMS * BATCH)
    return tokens * max(reading, computing)


def _captions(counted: dict[str, float]) -> list[str]:
    each = _seconds(counted["encode_flop"]) + _write_seconds(counted, CAPTION) / BATCH
    hours = TABLE_1 * each / 3600
    return [
        "`vlv eval captions`",
        f"{TABLE_1:,} images by the paper's model, {BEAMS} beams",
        _gib(counted["captioning_bytes"]),
        f"{hours:.1f}",
        "none",
        f"{hours * GPU_PRICE:.2f}",
        "table 1 begins with it",
    ]


def _pictures(counted: dict[str, float]) -> list[list[str]]:
    page = "[its page](evaluate_images.md)"
    steps = CAPTION_STEPS * counted["pipeline_flop"]
    captions = TABLE_1 * _seconds(steps) / 3600
    embeddings = TABLE_1 * _seconds(STEPS * counted["denoise_flop"]) / 3600
    pipeline = _gib(counted["pipeline_bytes"])
    all_scales = "at guidance 1, 2, 3 and 4"
    return [
        _drawn(
            "coco-fid",
            f"{TABLE_1:,} pictures of one captioner by SD 3.5 medium, {SIDE} pixels, {all_scales}; "
            f"{page}",
            pipeline,
            PASSES * captions,
            "table 1: VLV 11.47, 6.64, 8.56, 9.90 at guidance 1 to 4",
        ),
        _drawn(
            "fidelity",
            f"those at guidance 2; nothing is drawn again after `vlv eval coco-fid`; {page}",
            pipeline,
            2 * captions,
            "none",
        ),
        _drawn(
            "reconstruction",
            f"{TABLE_1:,} pictures by one model in {STEPS} steps, {all_scales}; {page}",
            _gib(counted["drawing_bytes"]),
            PASSES * embeddings,
            "table 5: FID 9.71, 7.22, 7.70, 7.84 at guidance 1 to 4 after 40M images",
        ),
    ]


def _drawn(name: str, what: str, memory: str, hours: float, paper: str) -> list[str]:
    usd = f"{hours * GPU_PRICE:.2f}"
    return [f"`vlv eval {name}`", what, memory, f"{hours:.1f}", "none", usd, paper]


def _asked(
    name: str, what: str, memory: str, requests: int, tokens: tuple[float, float], paper: str
) -> list[str]:
    usd = (requests * tokens[0] * INPUT_PRICE + requests * tokens[1] * OUTPUT_PRICE) / 1e6
    return [
        name,
        what,
        memory,
        "of the server",
        f"{requests:,}; {_short(requests * tokens[0])} and {_short(requests * tokens[1])}",
        f"{usd:,.2f}",
        paper,
    ]


def _arena() -> list[str]:
    from vlv.endpoints.budget import prompt_tokens_of
    from vlv.evaluation.real.arena import INSTRUCTION

    prompt = prompt_tokens_of(len(INSTRUCTION), 1) + CAPTIONERS * CAPTION
    return _asked(
        "`vlv eval arena`",
        f"{TABLE_2} images, {CAPTIONERS} captioners, one judge",
        _judge(8.77),
        TABLE_2,
        (prompt, 60 * CAPTIONERS),
        "table 2: VLV 5.18, GPT-4o 5.23, Qwen2.5-VL-7B 5.03",
    )


def _pairwise() -> list[str]:
    from vlv.endpoints.budget import prompt_tokens_of
    from vlv.evaluation.real.arena_pairs import INSTRUCTION

    requests = TABLE_2 * CAPTIONERS * (CAPTIONERS - 1)
    prompt = prompt_tokens_of(len(INSTRUCTION), 1) + 2 * CAPTION
    return _asked(
        "`vlv eval arena --pairwise`", "the same", _judge(8.77), requests, (prompt, 80), "none"
    )


def _human() -> list[str]:
    return ["`vlv eval arena --human`", "the same, by people", "none", "0", "none", "0", "table 2"]


def _vqa() -> list[list[str]]:
    from vlv.endpoints.budget import prompt_tokens_of
    from vlv.evaluation.real.vqa import INSTRUCTION

    rows = []
    paper = {
        "VQAv2": (VQAV2, "table 3: VLV 58.55, 61.72, 63.60"),
        "OK-VQA": (OKVQA, "table 3: VLV 45.31, 54.10, 60.25"),
    }
    shots = (0, 4, 32)
    for name, (questions, reported) in paper.items():
        blocks = sum(1 + shot for shot in shots) / len(shots)
        prompt = prompt_tokens_of(len(INSTRUCTION), 0) + blocks * (CAPTION + QUESTION)
        rows.append(
            _asked(
                "`vlv eval vqa`",
                f"{name}, {questions:,} questions, 0, 4 and 32 shots, one captioner",
                _judge(8.19),
                questions * len(shots),
                (prompt, 4),
                reported,
            )
        )
    return rows


def _boxes(counted: dict[str, float]) -> list[str]:
    from vlv.endpoints.budget import image_tokens
    from vlv.evaluation.real.boxes3d import INSTRUCTION

    hours = DRAWN * _seconds(2 * STEPS * counted["denoise_flop"]) / 3600
    prompt = image_tokens(512, 512, 1024) + len(INSTRUCTION) // 4
    row = _asked(
        "`vlv eval boxes3d`",
        f"{DRAWN:,} images drawn by one model in {STEPS} steps",
        f"{_gib(counted['drawing_bytes'])}; {_judge(8.77)}",
        2 * DRAWN,
        (prompt, BOXES),
        "table 6: angle .1016, centre .0988, scale .1222 after 40M images",
    )
    row[3] = f"{hours:.1f} and of the server"
    row[5] = f"{float(row[5].replace(',', '')) + hours * GPU_PRICE:,.2f}"
    return row


def _verify(counted: dict[str, float]) -> list[str]:
    from vlv.verification.scorer import VerifySettings

    settings = VerifySettings()
    texts = 1 + CRITIQUE_SENTENCES / CRITIQUE_CAPTIONS + settings.per_word * WORDS_TESTED
    passes = texts * len(settings.levels) * settings.repeats
    # Twice: sentences that are refused are scored too, for comparison.
    hours = 2 * CRITIQUE_CAPTIONS * _seconds(passes * counted["denoise_flop"]) / 3600
    return [
        "`vlv eval verify --labels`",
        f"DOCCI-Critique: {CRITIQUE_CAPTIONS:,} captions, {CRITIQUE_SENTENCES:,} sentences",
        _gib(counted["all_bytes"]),
        f"{hours:.1f}",
        "none",
        f"{hours * GPU_PRICE:.2f}",
        "none",
    ]


def _pairs(counted: dict[str, float]) -> list[str]:
    each = _seconds(2 * counted["encode_flop"]) + _write_seconds(counted, CAPTION) / BATCH
    hours = DRAWN * each / 3600
    return [
        "`vlv eval pairs`",
        f"{DRAWN:,} images of your own by the paper's model",
        _gib(counted["captioning_bytes"]),
        f"{hours:.2f}",
        "none",
        f"{hours * GPU_PRICE:.2f}",
        "none",
    ]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _judge(billions: float) -> str:
    """A model that is served in bfloat16, without its cache."""
    return f"{billions * 2e9 / 2**30:.1f} GiB for a judge of {billions:g}B"


def _short(tokens: float) -> str:
    return f"{tokens / 1e6:,.2f}M" if tokens >= 1e4 else f"{tokens:,.0f}"


def render(page: str, counted: dict[str, float]) -> str:
    """The page with its table made anew."""
    return _GENERATED.sub(lambda _: f"<!-- needs -->\n\n{table(counted)}\n\n<!-- end -->", page)


def main() -> None:
    """See the head of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", action="store_true")
    if parser.parse_args().count:
        FIGURES.write_text(json.dumps(count(), indent=2) + "\n", encoding="utf-8")
    counted: dict[str, Any] = json.loads(FIGURES.read_text("utf-8"))
    PAGE.write_text(render(PAGE.read_text("utf-8"), counted), encoding="utf-8")


if __name__ == "__main__":
    main()
