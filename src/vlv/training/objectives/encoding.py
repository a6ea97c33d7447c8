"""What stages 1 and 2 share: an encoder that learns through frozen boxes, from pictures.

Knows boxes and held-out pictures; what is learned beside the denoising loss is the stages' own.

Shapes: B batch, Q, d length and width of z and c.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vlv.checkpoints.opening import save_model
from vlv.errors import ConfigError
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import CaptionsFrom
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import VLVEncoder
from vlv.models.text_tower import TextTower
from vlv.models.vlv import VLVModel
from vlv.training.objectives.denoising import PLAIN, DenoisingProbe
from vlv.training.objectives.objective import Objective, picture_rows
from vlv.training.samples.held_out import HeldOut
from vlv.training.samples.source import Batch
from vlv.training.starts import Starts
from vlv.training.trainable_parameters import (
    checkpoint_gradients,
    freeze_except,
    round_frozen,
)

# The picture that a validation draws: so many reconstructions, with classifier-free guidance.
PICTURES, PICTURE_STEPS, PICTURE_GUIDANCE = 8, 15, 2.0


@dataclass(frozen=True)
class StageBoxes:
    """The boxes that a stage starts from, and what the model's folder records of them.

    Raises ConfigError for boxes that do not fit each other, as they may where they are of several
    models.
    """

    encoder: VLVEncoder
    text_tower: TextTower
    decoder: DiffusionDecoder | None
    """None where the model that the stage starts from has none; then nothing denoises."""
    image_size: int
    """Side in pixels of the decoder's pictures, known without the decoder too."""
    caption_decoder: CaptionDecoder | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] | None = None
    """The record of the run of the same stage whose weights this one starts from."""
    starts: Starts = field(default_factory=dict)
    """The folders that the boxes were read from."""

    def __post_init__(self) -> None:
        encoder, tower = self.encoder, self.text_tower
        queries, wrote = encoder.settings.num_queries, [*encoder.slots.values()]
        takes = [*tower.slot_widths.values()]
        if wrote != takes or queries > tower.positions:
            raise ConfigError(
                f"the encoder writes {queries} embeddings of width {_widths(wrote)}, and the "
                f"text-to-image model takes up to {tower.positions} of width {_widths(takes)}; "
                "name an encoder that was trained with a text-to-image model of this kind"
            )
        if self.caption_decoder is not None:
            reads = self.caption_decoder.psi[0].in_features
            if reads not in (tower.conditioning_width, tower.width):
                raise ConfigError(
                    f"the caption decoder reads embeddings of width {reads}, and those of the "
                    f"text-to-image model have {tower.conditioning_width}; name a caption decoder "
                    "that was trained with one of this kind, or a language_model for a fresh one"
                )

    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters, by the names that they have in the objective."""
        boxes = {
            "encoder": self.encoder,
            "text_tower": self.text_tower,
            "decoder": self.decoder,
            "caption_decoder": self.caption_decoder,
        }
        held = nn.ModuleDict({name: box for name, box in boxes.items() if box is not None})
        return dict(held.named_parameters())


def _widths(slots: Sequence[int]) -> str:
    return " + ".join(map(str, slots))


class EncoderObjective(Objective):
    """Boxes of which the parameters in `trainable` train (see `vlv.training.trainable_parameters`);
    the others are frozen. `held_out` is None where nothing is validated.
    """

    decoder: DiffusionDecoder | None
    caption_decoder: CaptionDecoder | None
    captions_from: CaptionsFrom = "c"
    """What the caption decoder reads."""
    denoises = True
    """Whether the denoising loss is part of the objective."""
    weighting = PLAIN
    """Of the denoising loss in training; validation is not weighted."""
    validated_prefixes: Sequence[int] = ()
    """Numbers of first embeddings with which the denoising loss is validated, besides all."""

    def __init__(
        self, boxes: StageBoxes, trainable: Sequence[str], held_out: HeldOut | None = None
    ) -> None:
        super().__init__()
        # Parameters are counted in this order, and norms of gradients added up.
        self.encoder = boxes.encoder
        self.text_tower = boxes.text_tower
        self.decoder = boxes.decoder
        self.caption_decoder = boxes.caption_decoder
        self.image_size = boxes.image_size
        self._provenance = boxes.provenance
        self._held_out = held_out
        self._rounded: list[str] = []
        self._reopen: Callable[[], StageBoxes] | None = None
        freeze_except(self, self.parts(), trainable)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        groups = self.encoder.parts()
        if self.caption_decoder is not None:
            groups |= self.caption_decoder.parts()
        return groups

    def checkpoint_gradients(self) -> None:
        """Compute activations again in the backward pass instead of keeping them."""
        checkpoint_gradients(self.encoder, self.decoder, self.caption_decoder)

    def round_frozen(self, keep_exact: tuple[str, ...], reopen: Callable[[], StageBoxes]) -> None:
        """Keep frozen matrices in bfloat16 until `export`, which writes those that `reopen` reads.

        keep_exact: beginnings of the names of parameters that no folder holds.
        """
        self._rounded = round_frozen(self, keep_exact)
        self._reopen = reopen

    @property
    def held_out(self) -> HeldOut:
        """Pictures to validate on."""
        assert self._held_out is not None  # what is counted only is never validated
        return self._held_out

    @cached_property
    def probe(self) -> DenoisingProbe:
        """The denoising loss on held-out pictures."""
        assert self.decoder is not None  # what denoises has a decoder
        return DenoisingProbe(self.decoder, self.held_out)

    def embeddings(self, batch: Batch) -> Tensor:
        """The z (B,Q,d) = E(x) of a batch."""
        seen = batch["encoder_image"] if "encoder_image" in batch else batch["image"]
        z: Tensor = self.encoder(self.encoder.preprocess_uint8(seen))
        return z

    def picture(self) -> Image.Image | None:
        if self.decoder is None:
            return None
        with self.precision():
            return _reconstruction_picture(self._model(), self.held_out.images[:PICTURES])

    def export(self, folder: Path) -> None:
        with self._unrounded():
            save_model(self._model(), folder)

    def _model(self) -> VLVModel:
        model = VLVModel.from_boxes(
            encoder=self.encoder,
            text_tower=self.text_tower,
            decoder=self.decoder,
            caption_decoder=self.caption_decoder,
            captions_from=self.captions_from,
            provenance=dict(self._provenance),
        )
        model.manifest.config.decoder_image_size = self.image_size
        return model

    def precision(self) -> Any:
        """Where the objective computes outside of the loop: frozen boxes may be of another type
        than their inputs.
        """
        if not self._rounded:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextmanager
    def _unrounded(self) -> Iterator[None]:
        """Inside, frozen parameters are as they were read."""
        if self._reopen is None:
            yield
            return
        parameters = dict(self.named_parameters())
        rounded = {name: parameters[name].data for name in self._rounded}
        exact = self._reopen().parameters()
        try:
            for name in rounded:
                parameters[name].data = exact[name].data
            yield
        finally:
            for name, data in rounded.items():
                parameters[name].data = data

    @property
    def best_by(self) -> Collection[str]:
        if not self.denoises:
            return ()
        prefixes = [f"denoising_loss/first_{length}" for length in self.validated_prefixes]
        return ["denoising_loss/z", *prefixes]

    def reconstruction_metrics(self) -> dict[str, float]:
        """Denoising loss of held-out pictures under their own z, another's, and the mean z."""
        encoder, tower, probe = self.encoder, self.text_tower, self.probe
        parts = [
            encoder(encoder.preprocess_uint8(self.held_out.bytes_of(chunk)))
            for chunk in self.held_out.chunks()
        ]
        z = torch.cat(parts)
        c = tower(z)
        metrics = {
            "denoising_loss/z": probe.loss(c),
            "denoising_loss/shuffled_z": probe.loss(tower(z.roll(1, dims=0))),
            "denoising_loss/mean_z": probe.loss(tower(z.mean(0, keepdim=True).expand_as(z))),
        }
        # T is causal: the first tokens of c are those of the first embeddings alone.
        return metrics | {
            f"denoising_loss/first_{length}": probe.loss(c.first(length))
            for length in self.validated_prefixes
        }


def _reconstruction_picture(model: VLVModel, images: NDArray[np.uint8]) -> Image.Image:
    """Originals above their reconstructions from embeddings."""
    drawn = model.reconstruct(
        [Image.fromarray(image) for image in images],
        seeds=range(len(images)),
        guidance_scale=PICTURE_GUIDANCE,
        num_inference_steps=PICTURE_STEPS,
    ).images
    return picture_rows([list(images), [np.asarray(x) for x in drawn]])
