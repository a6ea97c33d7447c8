"""The pipelines of the families: opened from a model folder, they draw images, z or texts.

Shapes: B images, Q queries, d width of z.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self, get_type_hints

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from vlv.errors import ConfigError
from vlv.integrations.arguments import download_of, refuse_others
from vlv.integrations.diffusers.components import component_name, tokenizer_name
from vlv.integrations.diffusers.conditioning import Conditioned
from vlv.integrations.diffusers.saving import Saved
from vlv.models.config import NUM_INFERENCE_STEPS, FamilyName
from vlv.models.encoder import VLVEncoder
from vlv.models.families import FAMILIES, load_family
from vlv.models.preprocessing import Images
from vlv.pipeline import VLV


class _Reconstruction(Conditioned, Saved):
    """Images -> z -> c -> images: what a VLV adds to the pipeline of its family."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        scheduler: SchedulerMixin | None = None,
        **others: Any,
    ) -> Self:
        """Open a model folder, an id of the package, or of the Hub, on the CPU; `to` moves it. The
        pipeline is that of the model's family.

        The scheduler is the given one, or the one that `save_pretrained` wrote, or, where that is
        the noise schedule of training (DDPM), that of `VLV.reconstruct`. `others` may hold
        `VLV.from_pretrained`'s token, cache_dir, local_files_only and force_download.

        Raises CheckpointError for a model that cannot be opened or does not draw, and ConfigError
        for arguments of diffusers that a VLV cannot honour.
        """
        download = download_of(others)
        refuse_others(others)
        opened = VLV.from_pretrained(
            pretrained_model_name_or_path,
            revision=revision,
            dtype=dtype or torch_dtype or torch.float32,
            device="cpu",
            **download,
        )
        decoder, tower = opened.decoder, opened.text_tower
        kind: Any = (
            cls if cls.family.name == decoder.family.name else pipeline_class(decoder.family.name)
        )
        encoders = {component_name(name): encoder for name, encoder in tower.encoders.items()}
        tokenizers = {
            tokenizer_name(component_name(name)): tokenizer
            for name, tokenizer in tower.tokenizers.items()
        }
        pipeline = kind(
            **{
                **decoder.family.pipeline_parts(),
                **encoders,
                **tokenizers,
                "vae": decoder.vae,
                decoder.family.record.denoiser: decoder.denoiser,
                "scheduler": scheduler or decoder.sampler(_saved_sampler(opened)),
                "encoder": opened.encoder,
            }
        )
        pipeline._opened = opened
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        made: Self = pipeline
        return made

    def __call__(
        self,
        image: Images | None = None,
        z: Tensor | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = NUM_INFERENCE_STEPS,
        guidance_scale: float = 2.0,
        height: int | None = None,
        width: int | None = None,
        **settings: Any,
    ) -> Any:
        """Draw images, or embeddings z (B,Q,d), again; or draw a prompt, as the text-to-image model
        does by itself.

        generator: as everywhere in diffusers; a list with one generator an image, each with a seed,
        gives what `VLV.reconstruct` draws with those seeds. `settings` are those of the family's
        pipeline: negative_prompt, output_type, callback_on_step_end, latents, ...

        Raises ConfigError unless one of image, z and prompt is given, for a guidance_scale that is
        not finite, and for negative prompts that are not as many as the images.
        """
        if sum(one is not None for one in (image, z, prompt)) != 1:
            raise ConfigError("give an image, embeddings z, or a prompt, and only one of them")
        if not math.isfinite(guidance_scale):
            raise ConfigError(f"guidance_scale must be a finite number, not {guidance_scale}")
        if image is not None:
            z = self.encode_image_to_z(image)
        guided = guidance_scale > 1
        settings = {**self.family.pipeline_arguments(), **settings}
        if z is not None:
            away = settings.get("negative_prompt")
            settings |= self.arguments_of_z(z, negative=guided, negative_prompt=away)
            if away is not None and self.family.record.negative_prompt:
                settings["negative_prompt"] = None  # it is among the arguments
        elif prompt is not None:
            settings |= self._arguments_of_prompt(prompt, guided, settings)
        return super().__call__(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            height=height or self.image_size,
            width=width or self.image_size,
            **settings,
        )


class VLVPipeline(_Reconstruction, StableDiffusionPipeline):
    """Images -> z -> c -> images, with what every pipeline of diffusers has: other schedulers,
    callbacks, offloading, LoRAs of the denoiser, `from_pipe`.

    `from_pretrained` opens a model of any family, with the pipeline of that family; this class
    itself is Stable Diffusion's. `VLVPipeline.from_pipe(other, encoder=encoder)` adds the encoder
    to a Stable Diffusion that is opened already, `pipeline_class(family)` to other ones.
    """

    family = load_family("stable-diffusion")
    model_cpu_offload_seq = "encoder->text_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        encoder: VLVEncoder,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        image_encoder: Any = None,
        requires_safety_checker: bool = False,
    ) -> None:
        StableDiffusionPipeline.__init__(
            self,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
            requires_safety_checker=requires_safety_checker,
        )
        self.register_modules(encoder=encoder)
        self._opened: VLV | None = None

    def encode_z(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What z (B,Q,d) is to any pipeline of Stable Diffusion: its `prompt_embeds` and
        `negative_prompt_embeds`, both (B,Q,d).
        """
        made = self.arguments_of_z(z)
        return made["prompt_embeds"], made["negative_prompt_embeds"]

    def _arguments_of_prompt(
        self, prompt: str | Sequence[str], guided: bool, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """The library encodes the prompt itself, so that all of its settings work."""
        return {"prompt": prompt if isinstance(prompt, str) else list(prompt)}


@cache
def pipeline_class(family: FamilyName) -> type[_Reconstruction]:
    """The pipeline of VLVs of a family: the library's, with an encoder as one component more."""
    if family == "stable-diffusion":
        return VLVPipeline
    base: Any = getattr(diffusers, FAMILIES[family].pipeline)

    def start(self: Any, encoder: VLVEncoder, **parts: Any) -> None:
        base.__init__(self, **parts)
        self.register_modules(encoder=encoder)
        self._opened = None

    # diffusers reads off the signature what a pipeline consists of, and of which classes.
    usual = inspect.signature(base.__init__)
    added = inspect.Parameter("encoder", inspect.Parameter.KEYWORD_ONLY, annotation=VLVEncoder)
    named = [one for one in usual.parameters.values() if one.kind is not one.VAR_KEYWORD]
    start.__signature__ = usual.replace(parameters=[*named, added])  # type: ignore[attr-defined]
    start.__annotations__ = {**get_type_hints(base.__init__), "encoder": VLVEncoder}
    content: Mapping[str, Any] = {
        "__init__": start,
        "__module__": __name__,
        "__doc__": f"`{base.__name__}` with an encoder: images -> z -> c -> images.",
        "family": load_family(family),
        "model_cpu_offload_seq": f"encoder->{base.model_cpu_offload_seq}",
    }
    return type(f"VLV{base.__name__}", (_Reconstruction, base), dict(content))


def _saved_sampler(model: VLV) -> str:
    """The scheduler class in the files of a model, or the one to draw with where that is the noise
    schedule of training.
    """
    assert model.folder is not None  # it was opened from one
    config = DDPMScheduler.load_config(model.folder / "scheduler", local_files_only=True)
    name = config.get("_class_name", DDPMScheduler.__name__)
    kind = getattr(diffusers, str(name), None)
    is_sampler = isinstance(kind, type) and issubclass(kind, SchedulerMixin)
    if is_sampler and kind is not DDPMScheduler:
        return str(name)
    return model.decoder.family.default_sampler
