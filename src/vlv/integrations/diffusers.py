"""A VLV as a pipeline of diffusers: an image, or its embeddings z, in, and an image out.

It is Stable Diffusion's pipeline with one component more, the VLV encoder. Its other components
have their usual names, so that other pipelines of Stable Diffusion take them over.

Shapes: B images, Q queries, d width of z and of c.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

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
from vlv.integrations.arguments import refuse_others
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import VLVEncoder
from vlv.models.families.stable_diffusion import CLIPTextTower
from vlv.models.preprocessing import Images, as_list
from vlv.pipeline import VLV

# What `VLV.reconstruct` samples with where nothing else is asked for.
_SAMPLER = "ddim"


class VLVPipeline(StableDiffusionPipeline):
    """Images -> z -> c -> images, with what every pipeline of diffusers has: other schedulers,
    callbacks, offloading, LoRAs of the U-Net, `from_pipe`.

    Make it with `from_pretrained`, or from components. `VLVPipeline.from_pipe(other,
    encoder=encoder)` adds the encoder to a Stable Diffusion that is opened already.
    """

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
        super().__init__(
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
        """Open a model folder, an id of the package, or of the Hub, on the CPU; `to` moves it.

        The scheduler is the one that `save_pretrained` wrote, DDIM where that is the noise
        schedule of training (DDPM), as in `VLV.reconstruct`, or the given one.

        Raises CheckpointError for a model that cannot be opened or does not draw, and ConfigError
        for arguments of diffusers that a VLV cannot honour.
        """
        refuse_others(others)
        opened = VLV.from_pretrained(
            pretrained_model_name_or_path,
            revision=revision,
            dtype=dtype or torch_dtype or torch.float32,
            device="cpu",
        )
        decoder = opened.decoder
        pipeline = cls(
            vae=decoder.vae,
            text_encoder=opened.text_tower.clip,
            tokenizer=opened.text_tower.tokenizer,
            unet=decoder.unet,
            scheduler=scheduler or decoder.sampler(_saved_sampler(opened)),
            encoder=opened.encoder,
        )
        pipeline._opened = opened
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    @property
    def image_size(self) -> int:
        """Pixels a side of what it draws, unless `height` and `width` say otherwise."""
        if self._opened is not None:
            return self._opened.decoder.image_size
        return int(self.unet.config.sample_size) * int(self.vae_scale_factor)

    @property
    def text_tower(self) -> CLIPTextTower:
        """T: z or texts -> c, with the text encoder of this pipeline."""
        return CLIPTextTower(self.text_encoder, self.tokenizer)

    @torch.no_grad()
    def encode_image_to_z(self, images: Images) -> Tensor:
        """Caption embeddings z (B,Q,d) of one or many images."""
        pixels = self.encoder.preprocess(as_list(images))
        z: Tensor = self.encoder(pixels.to(self._execution_device))
        return z

    @torch.no_grad()
    def encode_z(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What z (B,Q,d) is to any pipeline of Stable Diffusion: its `prompt_embeds` and
        `negative_prompt_embeds`, both (B,Q,d).
        """
        hook = getattr(self.text_encoder, "_hf_hook", None)
        if hook is not None:  # offloaded; the tower calls its parts, which have no hooks
            hook.pre_forward(self.text_encoder)
        tower = self.text_tower
        c = tower.forward(z.to(self._execution_device, self.text_encoder.dtype)).tokens
        empty = tower.unconditional(1, z.shape[1]).tokens
        return c, empty.expand(len(c), -1, -1)

    def __call__(
        self,
        image: Images | None = None,
        z: Tensor | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 2.0,
        height: int | None = None,
        width: int | None = None,
        **settings: Any,
    ) -> Any:
        """Draw images, or embeddings z (B,Q,d), again; or draw a prompt, as the text-to-image model
        does by itself.

        generator: as everywhere in diffusers; a list with one generator an image, each with a seed,
        gives what `VLV.reconstruct` draws with those seeds. `settings` are those of
        `StableDiffusionPipeline`: output_type, callback_on_step_end, latents, ...

        Raises ConfigError unless one of image, z and prompt is given.
        """
        if sum(one is not None for one in (image, z, prompt)) != 1:
            raise ConfigError("give an image, embeddings z, or a prompt, and only one of them")
        if image is not None:
            z = self.encode_image_to_z(image)
        if z is not None:
            positive, negative = self.encode_z(z)
            settings |= {"prompt_embeds": positive}
            if guidance_scale > 1:
                settings |= {"negative_prompt_embeds": negative}
        return super().__call__(
            prompt=prompt if prompt is None or isinstance(prompt, str) else list(prompt),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            height=height or self.image_size,
            width=width or self.image_size,
            **settings,
        )

    def save_pretrained(self, save_directory: str | Path, **others: Any) -> None:
        """Write a model folder, as `VLV.save_pretrained` does, with the components of this
        pipeline and its scheduler; what was opened with them is written too.

        Raises ConfigError for arguments that would change the files, and cannot.
        """
        pushed, name = others.pop("push_to_hub", False), others.pop("repo_id", None)
        refuse_others(others)
        self.as_vlv().save_pretrained(save_directory)
        if pushed:
            self.push_to_hub(name or Path(save_directory).name)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, and return the address of the commit.

        options: `vlv.checkpoints.publishing.publish`'s.
        """
        return self.as_vlv().push_to_hub(repo_id, **options)

    def as_vlv(self) -> VLV:
        """The same model as `vlv.VLV`, with the components that this pipeline has now.

        Raises ConfigError where the encoder that was opened has been replaced.
        """
        if self._opened is None:
            return VLV.from_boxes(
                encoder=self.encoder,
                text_tower=self.text_tower,
                decoder=DiffusionDecoder(self.vae, self.unet, self.scheduler, self.image_size),
            )
        if self.encoder is not self._opened.encoder:
            raise ConfigError(
                "the encoder is not the one that was opened, whose captions and verifier would not "
                "fit; make a pipeline from its components"
            )
        decoder = self._opened.decoder
        decoder.vae, decoder.unet, decoder.scheduler = self.vae, self.unet, self.scheduler
        self._opened.text_tower.clip = self.text_encoder
        self._opened.device, self._opened.dtype = self.device, self.dtype
        return self._opened


def _saved_sampler(model: VLV) -> str:
    """The scheduler class in the files of a model, or the one to draw with where that is the noise
    schedule of training.
    """
    assert model.folder is not None  # it was opened from one
    config = DDPMScheduler.load_config(model.folder / "scheduler", local_files_only=True)
    name = config.get("_class_name", DDPMScheduler.__name__)
    kind = getattr(diffusers, str(name), None)
    is_sampler = isinstance(kind, type) and issubclass(kind, SchedulerMixin)
    return name if is_sampler and kind is not DDPMScheduler else _SAMPLER
