"""What stages 1 and 2 share: an encoder that learns through frozen parts, from pictures.

Knows boxes and pictures; what is learned beside the denoising loss is the stages' own.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import model_validator
from torch import Tensor, nn

from vlv.checkpoints.manifest import CaptionsFrom
from vlv.errors import ConfigError
from vlv.models.attention import use_fast_attention
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import TASK_PROMPTS, VLVEncoder
from vlv.models.text_tower import TextTower
from vlv.models.tokenizers import train_florence_tokenizer
from vlv.models.vlv import VLV
from vlv.training.accelerator import computing_device
from vlv.training.config import TrainingConfig
from vlv.training.objectives.denoising import DenoisingConfig, DenoisingProbe, denoising_draws
from vlv.training.samples.images import HeldOut, open_pictures
from vlv.training.stage import Batch, Stage
from vlv.training.stages.common import model_config, picture_rows
from vlv.training.trainable_parameters import checkpoint_gradients, choose_trainable, round_frozen


class EncoderStageConfig(DenoisingConfig):
    """Two levers on memory, both off unless set.

    `gradient_checkpointing` computes activations anew in the backward pass. `frozen_dtype` keeps
    the parts that do not train in bfloat16 while the stage runs; what it writes holds them as they
    were.
    """

    gradient_checkpointing: bool | None = None
    frozen_dtype: Literal["bf16"] | None = None

    @model_validator(mode="after")
    def _precisions_agree(self) -> "EncoderStageConfig":
        if self.frozen_dtype is not None and self.mixed_precision != self.frozen_dtype:
            raise ValueError("frozen_dtype: bf16 needs mixed_precision: bf16")
        return self


class EncoderStage(Stage):
    """Boxes out of folders, some of their parts trainable, and pictures to train them on."""

    config: EncoderStageConfig
    encoder: VLVEncoder
    tower: TextTower
    decoder: DiffusionDecoder | None
    """None where the model that the stage starts from has none; then nothing denoises."""
    captioner: CaptionDecoder | None
    image_size: int
    """Side in pixels of the decoder's pictures, known without the decoder too."""
    origin: dict[str, Any]
    """What the model's folder is to say of where its boxes came from."""
    captions_from: CaptionsFrom = "c"
    """What the captioner reads."""

    @abstractmethod
    def load(self) -> dict[str, nn.Module]:
        """The boxes as the stage starts from them, by the names that they have in it."""

    @property
    @abstractmethod
    def denoises(self) -> bool:
        """Whether the denoising loss is part of the objective."""

    @property
    @abstractmethod
    def trained_parts(self) -> Sequence[str]:
        """Which parts train; see `vlv.training.trainable_parameters`."""

    @property
    @abstractmethod
    def fresh(self) -> tuple[str, ...]:
        """Beginnings of the names of parameters that lie in no folder: they are never rounded."""

    def __init__(self, config: EncoderStageConfig, *, captioned: bool) -> None:
        super().__init__()
        self.config = config
        boxes = self.load()
        self.adopt(boxes)
        if self.denoises and self.decoder is None:
            raise ConfigError(
                "the denoising loss is on, and the model that the stage starts from has no "
                "diffusion decoder; set denoising_weight: 0, or name a model with vae, unet and "
                "scheduler"
            )
        use_fast_attention(self, computing_device())
        self.pictures = open_pictures(
            config,
            self.image_size,
            self.encoder.settings.image_size,
            self.decoder,
            captioned=captioned,
            denoised=self.denoises,
        )
        if self.pictures.crop_size is not None:
            # What the encoder learns to see is the decoder's crop, in use as in training.
            crop = {"crop_size": self.pictures.crop_size}
            self.encoder.settings = self.encoder.settings.model_copy(update=crop)
        self.probe = None if self.decoder is None else DenoisingProbe(self.decoder, self.held_out)
        if self.pictures.counts_refused:
            self.counted = frozenset({"refused"})

    @classmethod
    def without_pictures(
        cls, config: EncoderStageConfig, boxes: dict[str, nn.Module]
    ) -> "EncoderStage":
        """The stage on given boxes, for counting what a step of it needs."""
        stage = cls.__new__(cls)
        nn.Module.__init__(stage)
        stage.config = config
        stage.adopt(boxes)
        return stage

    def adopt(self, boxes: dict[str, nn.Module]) -> None:
        """Take the boxes and make of them what the config says: frozen or not, and how kept."""
        captioner = boxes.get("captioner")
        assert captioner is None or isinstance(captioner, CaptionDecoder)
        if captioner is None:
            self.captioner = None
        if "decoder" not in boxes:
            self.decoder = None
        # Parameters are counted in this order, and norms of gradients added up.
        for name, box in boxes.items():
            setattr(self, name, box)
        parts = self.encoder.parts() | (captioner.parts() if captioner is not None else {})
        choose_trainable(self, parts, self.trained_parts)
        if self.config.gradient_checkpointing:
            checkpoint_gradients(self.encoder, self.decoder, captioner)
        self._rounded: list[str] = []
        if self.config.frozen_dtype is not None:
            self._rounded = round_frozen(self, self.fresh)

    @property
    def held_out(self) -> HeldOut:
        """Pictures to validate on."""
        return self.pictures.held_out

    @property
    def size(self) -> int:
        return len(self.pictures)

    @property
    def data_fingerprint(self) -> str | None:
        return self.pictures.fingerprint

    def draws(self, position: int, count: int = 1) -> Batch:
        """Noise and timesteps of `count` draws at a position; empty where nothing denoises."""
        if not self.denoises:
            return {}
        assert self.decoder is not None and self.pictures.latent_shape is not None
        return denoising_draws(
            self.pictures.latent_shape,
            self.config.seed,
            position,
            int(self.decoder.scheduler.config.num_train_timesteps),
            bias=self.config.timestep_bias,
            draws=count,
        )

    def embeddings(self, batch: Batch) -> Tensor:
        """The z (B,Q,d) = E(x) of a batch."""
        seen = batch["encoder_image"] if "encoder_image" in batch else batch["image"]
        z: Tensor = self.encoder(self.encoder.preprocess_uint8(seen))
        return z

    def refusals(self, batch: Batch) -> dict[str, Tensor]:
        """How many images a batch replaces, where they can be refused."""
        return {"refused": batch["refused"].sum()} if "refused" in batch else {}

    def picture(self) -> Image.Image | None:
        if self.decoder is None:
            return None
        with self.precision():
            return reconstruction_picture(self._model(), self.held_out.images[:8])

    def export(self, folder: Path) -> None:
        with self._unrounded():
            self._model().save_pretrained(folder)

    def _model(self) -> VLV:
        model = VLV.from_boxes(
            encoder=self.encoder,
            text_tower=self.tower,
            decoder=self.decoder,
            caption_decoder=self.captioner,
            captions_from=self.captions_from,
            provenance=dict(self.origin),
        )
        model.manifest.config.decoder_image_size = self.image_size
        return model

    def precision(self) -> Any:
        """Where the stage computes outside of the loop: frozen parts may be of another type than
        what they are given.
        """
        if not self._rounded:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextmanager
    def _unrounded(self) -> Iterator[None]:
        """Inside, frozen parts are as they were read."""
        if not self._rounded:
            yield
            return
        parameters = dict(self.named_parameters())
        rounded = {name: parameters[name].data for name in self._rounded}
        exact = dict(nn.ModuleDict(self.load()).named_parameters())
        try:
            for name in rounded:
                parameters[name].data = exact[name].data
            yield
        finally:
            for name, data in rounded.items():
                parameters[name].data = data

    def reconstruction_figures(self) -> dict[str, float]:
        """Denoising loss of held-out pictures under their own z, another's, and the mean z."""
        encoder, tower, probe = self.encoder, self.tower, self.probe
        assert probe is not None  # what denoises has a decoder
        parts = [
            encoder(encoder.preprocess_uint8(self.held_out.bytes_of(chunk)))
            for chunk in self.held_out.chunks()
        ]
        z = torch.cat(parts)
        return {
            "denoising_loss/z": probe.loss(tower(z)),
            "denoising_loss/shuffled_z": probe.loss(tower(z.roll(1, dims=0))),
            "denoising_loss/mean_z": probe.loss(tower(z.mean(0, keepdim=True).expand_as(z))),
        }


def fresh_encoder(config: TrainingConfig, width: int) -> VLVEncoder:
    """An encoder of the sizes in `model`, for embeddings z of a width; the prompt is the only text
    that it reads.
    """
    tokenizer = train_florence_tokenizer(TASK_PROMPTS.values())
    return VLVEncoder.from_config(model_config(config).encoder, tokenizer, width)


def reconstruction_picture(model: VLV, images: NDArray[np.uint8]) -> Image.Image:
    """Originals above their reconstructions from embeddings."""
    drawn = model.reconstruct(
        [Image.fromarray(image) for image in images],
        seeds=range(len(images)),
        guidance_scale=2.0,
        num_inference_steps=15,
    ).images
    return picture_rows([list(images), [np.asarray(x) for x in drawn]])
