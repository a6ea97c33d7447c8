"""The computation of each kind of job, as a cooperative task.

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
from vlv.models.caption_tokens import token_ids
from vlv.models.vlv import VLVModel
from vlv.sentences import sentence_spans
from vlv.serving.worker.cancellation import BeamSearchItems, ImageItems
from vlv.serving.worker.captions import cleaned
from vlv.serving.worker.cooperative import CooperativeTask, pause_before_passes
from vlv.serving.worker.jobs import (
    CaptionJob,
    CaptionResult,
    Embeddings,
    EncodeJob,
    ImageJob,
    KeptEmbeddings,
    Pixels,
    Result,
    VerifyJob,
)
from vlv.serving.worker.stop_texts import StopTexts
from vlv.verification.verify import verify_caption

EncodedSource = tuple[Tensor, bool | None]
"""A tensor of a source, and whether the source is an image that is in distribution."""

# The cost of verification grows with both.
MAX_SENTENCES = 32
MAX_VERIFIED_TOKENS = 512


class Computations:
    """The computations of a model that holds its components in memory.

    The work before the first pass belongs to the task's first step, so creating a task is cheap.
    """

    def __init__(self, model: VLVModel) -> None:
        self._model = model
        pause_before_passes(_networks(model))

    def read(self, jobs: Sequence[CaptionJob]) -> CooperativeTask[list[EncodedSource]]:
        """What the caption decoder reads (Q,d) of each source."""

        def compute() -> list[EncodedSource]:
            encoded = self._encode_captioned(jobs)
            inputs: list[EncodedSource] = []
            for _, group in groupby(encoded, lambda one: one[0].shape):
                z, in_distribution = zip(*group, strict=True)
                inputs += zip(self._model.read(torch.stack(z)), in_distribution, strict=True)
            return inputs

        return CooperativeTask(compute, ImageItems(len(jobs)))

    def encode(self, jobs: Sequence[EncodeJob]) -> CooperativeTask[list[Result]]:
        """Embeddings of images."""

        def compute() -> list[Result]:
            encoded = self._encode_sources([job.source for job in jobs])
            return [z.float().numpy(force=True) for z, _ in encoded]

        return CooperativeTask(compute, ImageItems(len(jobs)))

    def beam_search(self, jobs: Sequence[CaptionJob]) -> CooperativeTask[list[Result]]:
        """Captions by beam search, with the settings of the first job."""
        caption_decoder, first = self._model.caption_decoder, jobs[0]

        def compute() -> list[Result]:
            z, in_distribution = zip(*self._encode_captioned(jobs), strict=True)
            captions = caption_decoder.generate(
                self._model.read(torch.stack(z)),
                num_beams=first.num_beams,
                max_new_tokens=first.max_new_tokens,
                min_new_tokens=first.min_new_tokens,
            )
            captions = [
                cleaned(StopTexts(job.stop).cut(caption))
                for caption, job in zip(captions, jobs, strict=True)
            ]
            return [CaptionResult(*pair) for pair in zip(captions, in_distribution, strict=True)]

        end_token = int(caption_decoder.tokenizer.eos_token_id)
        items = BeamSearchItems(len(jobs), end_token)
        return CooperativeTask(compute, items, [caption_decoder.lm])

    def generate_images(self, jobs: Sequence[ImageJob]) -> CooperativeTask[list[Result]]:
        """Images, all of texts or all of embeddings, with the settings of the first job."""
        settings: dict[str, Any] = asdict(jobs[0].sampler)
        settings |= {"seeds": [job.seed for job in jobs], "batch_size": len(jobs)}

        def compute() -> list[Result]:
            texts = [job.source for job in jobs if isinstance(job.source, str)]
            if texts:
                output = self._model.draw(texts, **settings)
            else:
                sources = [job.source for job in jobs if not isinstance(job.source, str)]
                z = torch.stack([self._concatenate(parts) for parts in sources])
                late = [job.late for job in jobs if job.late is not None]
                if late:
                    settings["captions"] = [one.text for one in late]
                    settings["caption_start"] = late[0].start
                output = self._model.reconstruct(z, **settings)
            return [np.asarray(image) for image in output.images]

        decoder = self._model.decoder
        items = ImageItems(len(jobs))
        networks = [decoder.denoiser, decoder.vae.decoder]
        return CooperativeTask(compute, items, networks, counted=decoder.denoiser)

    def verify(self, job: VerifyJob) -> CooperativeTask[list[Result]]:
        """The verdicts on one caption that `too_long` accepts."""

        def compute() -> list[Result]:
            ((z, in_distribution),) = self._encode_sources([job.source])
            sentences = verify_caption(
                self._model,
                Image.fromarray(job.decoder_pixels),
                job.caption,
                z=z[None],
                in_distribution=in_distribution,
                false_alarm_rate=job.false_alarm_rate,
            )
            return [tuple(sentences)]

        return CooperativeTask(compute, ImageItems(1))

    def too_long(self, job: VerifyJob) -> str | None:
        """Why a caption is too long to be verified; None if it is not."""
        sentences = len(sentence_spans(job.caption))
        if sentences > MAX_SENTENCES:
            return f"The caption has {sentences} sentences; send at most {MAX_SENTENCES}."
        tokens = len(token_ids(self._model.caption_decoder.tokenizer, job.caption))
        if tokens > MAX_VERIFIED_TOKENS:
            return f"The caption has {tokens} tokens; send at most {MAX_VERIFIED_TOKENS}."
        return None

    def _concatenate(self, parts: Sequence[KeptEmbeddings]) -> Tensor:
        encoded = self._encode_sources([part.source for part in parts])
        return torch.cat(
            [
                z[-part.keep :] if part.last else z[: part.keep]
                for (z, _), part in zip(encoded, parts, strict=True)
            ]
        )

    def _encode_captioned(self, jobs: Sequence[CaptionJob]) -> list[EncodedSource]:
        """Of each source the embeddings that its caption is written from."""
        encoded = self._encode_sources([job.source for job in jobs])
        return [
            (z[: job.num_queries], known) for (z, known), job in zip(encoded, jobs, strict=True)
        ]

    def _encode_sources(self, sources: Sequence[Pixels | Embeddings]) -> list[EncodedSource]:
        """Z (Q,d) of each source, and whether an image is in distribution.

        Images go through the encoder in batches that make a short pass.
        """
        images: list[Any] = [one for one in sources if one.dtype == np.uint8]
        size = self._encoder_batch_size()
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

    def _encoder_batch_size(self) -> int:
        """One on a CPU if images are large: it gains nothing from several in one pass."""
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
    if "caption_decoder" in model.loaded:
        yield from (model.caption_decoder.lm, model.caption_decoder.lm.base_model)
    if model.can_draw:
        decoder = model.decoder
        yield from (decoder.denoiser, decoder.vae.encoder, decoder.vae.decoder)


def layers(model: VLVModel) -> set[nn.Module]:
    """The layers of a model: the members of all module lists of its networks."""
    return {
        layer
        for network in _networks(model)
        for group in network.modules()
        if isinstance(group, nn.ModuleList)
        for layer in group
    }
