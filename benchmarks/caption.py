"""Seconds for a caption: ours against a plain implementation of the authors' procedure.

    python benchmarks/caption.py [--size full-width] [--threads 2] [--repetitions 3]
        [--new-tokens 32] [--batches 1 4] [--json FILE]

Both caption the same JPEG files with the same random weights (`reduced.py`), beams and number of
tokens, in turn in one process. In float32 both work on the authors' batch of two; so they do in
bfloat16, where ours is also measured at the fastest of --batches. The captions are compared.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measuring import DTYPES, OURS, PLAIN, Clock, Comparison, Limits, arguments, report
from plain_authors import PlainAuthors
from recording import recorded
from reduced import SIZES, photographs, write_model
from torch import Tensor

from vlv.data.images import load_image
from vlv.inference.captioning import caption_encoded
from vlv.inference.encoding import encode_images
from vlv.inference.loading import open_model
from vlv.inference.presets import preset
from vlv.inference.records import Captioned, Encoded, ImageInput
from vlv.pipeline import VLV

BATCH = 2  # the authors'
BEAMS = 4
GREEDY_TOKENS = 8
PREFILL = "language model: prefill"
TOKEN = "language model: layers, a token"
HEAD = "language model: head, a token"


def main() -> None:
    parser = arguments(__doc__, SIZES)
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens of each caption")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    limits = Limits.measure(quick=options.size == "tiny")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = write_model(folder / "model", options.size, captions=True)
        facts["limits"] = limits.facts(options.threads)
        facts["captions"] = f"{BEAMS} beams, {options.new_tokens} tokens"
        files = photographs(folder / "photographs", max(BATCH, *options.batches), options.size)
        made: list[dict[str, Any]] = []
        work: dict[str, dict[str, float]] = {}
        for dtype in DTYPES:
            model = open_model(folder / "model", dtype=dtype, device="cpu")
            plain, ours = Plain(model, options.new_tokens), Ours(model, options.new_tokens)
            both = compared(model, plain, ours, dtype, options.new_tokens)
            batches = [BATCH]
            if dtype == "float32":
                work = both.count(files[:BATCH])
                facts["z in float32"] = _apart(
                    plain.z, torch.stack([one.z for one in ours.encoded])
                )
                facts["without beams in float32"] = _same(
                    plain.write(1, GREEDY_TOKENS), ours.write(1, GREEDY_TOKENS)
                )
            else:
                batches += {both.fastest(files, [*options.batches, BATCH])} - {BATCH}
            made += both.rows(files, batches, options.repetitions, work, limits)
            facts[f"{BEAMS} beams in {dtype}"] = _same(both.results[PLAIN], both.results[OURS])
            del model, plain, ours, both
    report({"rows": made, "facts": facts, "options": recorded(options)}, options.json)


class Plain(PlainAuthors):
    """The authors' procedure from files to captions."""

    def __init__(self, model: VLV, new_tokens: int) -> None:
        super().__init__(model)
        self.new_tokens = new_tokens

    def make(self, files: Sequence[Path]) -> list[str]:
        self.z = self.embed(files)
        return self.write(BEAMS, self.new_tokens)

    def write(self, num_beams: int, max_new_tokens: int) -> list[str]:
        return self.caption(self.z, num_beams, max_new_tokens)


class Ours:
    """What `vlv caption --preset authors` does."""

    def __init__(self, model: VLV, new_tokens: int) -> None:
        self.model, self.new_tokens = model, new_tokens

    def preprocess(self, files: Sequence[Path]) -> Tensor:
        return torch.cat([self.model.encoder.preprocess([load_image(one)]) for one in files])

    def make(self, files: Sequence[Path]) -> list[str]:
        sources = map(ImageInput.of_file, files)
        found = encode_images(self.model, sources, batch_size=len(files))
        self.encoded = [one for one in found if isinstance(one, Encoded)]
        return self.write(BEAMS, self.new_tokens)

    def write(self, num_beams: int, max_new_tokens: int) -> list[str]:
        settings = replace(
            preset("authors").captions, num_beams=num_beams, max_new_tokens=max_new_tokens
        )
        made = caption_encoded(self.model, self.encoded, settings, batch_size=len(self.encoded))
        return [one.caption for one in made if isinstance(one, Captioned)]


def compared(model: VLV, plain: Plain, ours: Ours, dtype: str, new_tokens: int) -> Comparison:
    """Both sides with a clock on the modules that they share."""
    florence, caption_decoder = model.encoder.florence, model.caption_decoder
    clock = Clock()
    clock.watch("vision tower", florence.vision_tower)
    transformer = florence.language_model
    for part in (transformer.encoder, transformer.decoder, model.encoder.phi):
        clock.watch("transformer and phi", part)
    for part in (model.text_tower.clip.encoder, caption_decoder.psi):
        clock.watch("text tower and psi", part)
    lm = caption_decoder.lm
    # Layers and head apart: ours prefills through the layers alone, once for all beams.
    clock.watch(TOKEN, lm.base_model, first=PREFILL)
    clock.watch(HEAD, lm.get_output_embeddings())
    layers = sum(one.nbytes for one in lm.base_model.layers.parameters())
    return Comparison(
        plain,
        ours,
        clock,
        dtype,
        repeats={TOKEN: new_tokens - 1, HEAD: new_tokens},
        reads={
            TOKEN: layers,
            PREFILL: layers,
            HEAD: lm.get_output_embeddings().weight.nbytes,
        },
    )


def _apart(plain: Tensor, ours: Tensor) -> str:
    apart = (plain - ours).abs().max() / plain.abs().max()
    return f"differs by at most {apart.item():.0e} of its largest element"


def _same(plain: Sequence[str], ours: Sequence[str]) -> str:
    """Of the images that both did last; ours may have done more of the same files."""
    pairs = list(zip(plain, ours, strict=False))
    different = sum(a != b for a, b in pairs)
    return f"{different} of {len(pairs)} captions DIFFER" if different else "the same captions"


if __name__ == "__main__":
    main()
