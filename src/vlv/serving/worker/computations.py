"""What is done for jobs of each kind, as computations that stop before every pass.

Shapes: S the encoder's image size, Q embeddings, d their width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlv.inference.encoding import default_batch_size, encode_pixels
from vlv.models.caption_decoder import token_ids
from vlv.models.vlv import VLVModel
from vlv.sentences import sentence_spans
from vlv.serving.worker.cancellation import Pictures, Searches
from vlv.serving.worker.cooperative import Sliced, stop_before_passes
from vlv.serving.worker.jobs import (
    Caption,
    CaptionJob,
    DrawJob,
    Embeddings,
    EncodeJob,
    Mark,
    Part,
    Pixels,
    Result,
    VerifyJob,
)
from vlv.verification.verifier import SentenceSupport
from vlv.verification.verify import verify_caption, why

Seen = tuple[Tensor, bool | None]
"""Of a source: a tensor, and whether it is an image that is in distribution."""

# Of a caption that is verified: what it costs grows with both.
MAX_SENTENCES = 32
MAX_VERIFIED_TOKENS = 512


class Computations:
    """The computations of a model that holds its boxes in memory.

    What begins before the first pass is done in the first slice too, so that nothing is done where
    a computation is made.
    """

    def __init__(self, model: VLVModel) -> None:
        self._model = model
        stop_before_passes(_networks(model))

    def reading(self, jobs: Sequence[CaptionJob]) -> Sliced[list[Seen]]:
        """What the captioner reads (Q,d) of each source."""

        def read() -> list[Seen]:
            seen = self._seen([job.source for job in jobs])
            made: list[Seen] = []
            for _, group in groupby(seen, lambda one: one[0].shape):
                z, in_distribution = zip(*group, strict=True)
                made += zip(self._model.read(torch.stack(z)), in_distribution, strict=True)
            return made

        return Sliced(read, Pictures(len(jobs)))

    def encode(self, jobs: Sequence[EncodeJob]) -> Sliced[list[Result]]:
        """Embeddings of images."""

        def encode() -> list[Result]:
            return [
                z.float().numpy(force=True) for z, _ in self._seen([job.source for job in jobs])
            ]

        return Sliced(encode, Pictures(len(jobs)))

    def search(self, jobs: Sequence[CaptionJob]) -> Sliced[list[Result]]:
        """Captions by beam search, with the settings of the first."""
        caption_decoder, first = self._model.caption_decoder, jobs[0]

        def search() -> list[Result]:
            z, in_distribution = zip(*self._seen([job.source for job in jobs]), strict=True)
            made = caption_decoder.generate(
                self._model.read(torch.stack(z)),
                num_beams=first.num_beams,
                max_new_tokens=first.max_new_tokens,
                min_new_tokens=first.min_new_tokens,
            )
            pairs = zip(made, in_distribution, strict=True)
            return [Caption(one.text, one.tokens, one.ended, known) for one, known in pairs]

        end = int(caption_decoder.tokenizer.eos_token_id)
        return Sliced(search, Searches(len(jobs), end), [caption_decoder.lm])

    def draw(self, jobs: Sequence[DrawJob]) -> Sliced[list[Result]]:
        """Pictures, all of texts or all of embeddings, with the settings of the first."""
        settings: dict[str, Any] = asdict(jobs[0].drawing)
        settings |= {"seeds": [job.seed for job in jobs], "batch_size": len(jobs)}

        def draw() -> list[Result]:
            texts = [job.source for job in jobs if isinstance(job.source, str)]
            if texts:
                drawn = self._model.draw(texts, **settings)
            else:
                parts = [job.source for job in jobs if not isinstance(job.source, str)]
                z = torch.stack([self._joined(some) for some in parts])
                drawn = self._model.reconstruct(z, **settings)
            return [np.asarray(picture) for picture in drawn.images]

        decoder = self._model.decoder
        return Sliced(draw, Pictures(len(jobs)), [decoder.unet, decoder.vae.decoder])

    def verify(self, job: VerifyJob) -> Sliced[list[Result]]:
        """The marks of one caption, which has no `excess`."""

        def verify() -> list[Result]:
            ((z, in_distribution),) = self._seen([job.source])
            marks = verify_caption(
                self._model,
                Image.fromarray(job.picture),
                job.caption,
                z=z[None],
                in_distribution=in_distribution,
                false_alarm_rate=job.false_alarm_rate,
            )
            return [tuple(_mark(job.caption, one) for one in marks)]

        return Sliced(verify, Pictures(1))

    def excess(self, job: VerifyJob) -> str | None:
        """What a caption has too much of to be verified; None if it can be."""
        sentences = len(sentence_spans(job.caption))
        if sentences > MAX_SENTENCES:
            return f"{sentences} sentences; at most {MAX_SENTENCES} are verified at once."
        tokens = len(token_ids(self._model.caption_decoder.tokenizer, job.caption))
        if tokens > MAX_VERIFIED_TOKENS:
            return f"{tokens} tokens; at most {MAX_VERIFIED_TOKENS} are verified at once."
        return None

    def _joined(self, parts: Sequence[Part]) -> Tensor:
        seen = self._seen([part.source for part in parts])
        return torch.cat(
            [
                z[-part.keep :] if part.last else z[: part.keep]
                for (z, _), part in zip(seen, parts, strict=True)
            ]
        )

    def _seen(self, sources: Sequence[Pixels | Embeddings]) -> list[Seen]:
        """Z (Q,d) of each source, and of images whether they are in distribution; images go
        through the encoder together, as many as make a short pass.
        """
        images: list[Any] = [one for one in sources if one.dtype == np.uint8]
        size = self._images_at_once()
        encoded = iter(
            [
                one
                for start in range(0, len(images), size)
                for one in encode_pixels(self._model, images[start : start + size])
            ]
        )
        device, dtype = self._model.device, self._model.dtype
        return [
            next(encoded)
            if one.dtype == np.uint8
            else (torch.from_numpy(one).to(device, dtype), None)
            for one in sources
        ]

    def _images_at_once(self) -> int:
        """A processor gains nothing from several large images in one pass."""
        small = default_batch_size(self._model) > 8
        return default_batch_size(self._model) if small or self._model.device.type != "cpu" else 1


def _networks(model: VLVModel) -> Iterator[nn.Module]:
    """Every network of a model whose passes take time."""
    florence = model.encoder.florence
    yield from (
        florence.vision_tower,
        florence.language_model.encoder,
        florence.language_model.decoder,
        model.text_tower,
    )
    if "caption_decoder" in model.manifest.components:
        yield from (model.caption_decoder.lm, model.caption_decoder.lm.base_model)
    if "unet" in model.manifest.components:
        decoder = model.decoder
        yield from (decoder.unet, decoder.vae.encoder, decoder.vae.decoder)


def layers(model: VLVModel) -> set[nn.Module]:
    """What the passes of a model are made of: the members of all lists of its networks."""
    return {
        layer
        for network in _networks(model)
        for group in network.modules()
        if isinstance(group, nn.ModuleList)
        for layer in group
    }


def _mark(caption: str, one: SentenceSupport) -> Mark:
    better = None if one.better is None else why(caption, one)
    return Mark(
        one.text,
        one.start,
        one.end,
        one.score,
        one.probability,
        one.supported,
        better,
        one.verdict,
        one.reason,
    )
