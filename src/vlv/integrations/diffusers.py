"""A VLV as a pipeline of diffusers: an image, or its embeddings z, in, and an image out.

It is the pipeline of the model's family with one component more, the VLV encoder. Its other
components have their usual names, so that other pipelines of the family take them over.

Shapes: B images, Q queries, d width of z; c as the family's text tower gives it.
"""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiffusionPipeline,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from vlv.checkpoints.diffusion import noise_schedule
from vlv.errors import ConfigError
from vlv.integrations.arguments import download_of, publishing_of, refuse_others
from vlv.models.conditioning import Conditioning
from vlv.models.config import NUM_INFERENCE_STEPS, FamilyName, TextEncoderName
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import VLVEncoder
from vlv.models.families import FAMILIES, load_family
from vlv.models.families.family import Family
from vlv.models.preprocessing import Images, as_list
from vlv.models.text_tower import ConditioningEntry, TextTower
from vlv.pipeline import VLV

# What diffusers notes in a config of values that were not given.
_DEFAULTS = "_use_default_values"


class _Reconstruction(DiffusionPipeline):
    """Images -> z -> c -> images: what a VLV adds to the pipeline of its family."""

    family: ClassVar[Family]
    encoder: Any
    vae: Any
    scheduler: Any
    _opened: VLV | None

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
        encoders = {_part(name): encoder for name, encoder in tower.encoders.items()}
        tokenizers = {
            _tokenizer(_part(name)): tokenizer for name, tokenizer in tower.tokenizers.items()
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

    @property
    def denoiser(self) -> Any:
        """The U-Net or transformer."""
        return getattr(self, self.family.record.denoiser)

    @property
    def image_size(self) -> int:
        """Pixels a side of what it draws, unless `height` and `width` say otherwise."""
        if self._opened is not None:
            return self._opened.decoder.image_size
        # The transformer of FLUX.1 does not say it; its pipeline does.
        latents = self.denoiser.config.get("sample_size") or self.default_sample_size
        return int(latents) * int(self.vae_scale_factor)

    @property
    def text_tower(self) -> TextTower:
        """T: z or texts -> c, with the text encoders of this pipeline."""
        encoders = self._text_encoders()
        tokenizers = {name: getattr(self, _tokenizer(_part(name))) for name in encoders}
        tower = self.family.text_tower(encoders, tokenizers)
        if self._opened is not None and self._opened.text_tower.entry == "conditioning":
            return ConditioningEntry(tower)
        return tower

    def _text_encoders(self) -> dict[TextEncoderName, Any]:
        found = {name: getattr(self, _part(name)) for name in self.family.record.text_encoders}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    @torch.no_grad()
    def encode_image_to_z(self, images: Images) -> Tensor:
        """Caption embeddings z (B,Q,d) of one or many images."""
        pixels = self.encoder.preprocess(as_list(images))
        z: Tensor = self.encoder(pixels.to(self._execution_device))
        return z

    @torch.no_grad()
    def arguments_of_z(
        self,
        z: Tensor,
        *,
        negative: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """What z (B,Q,d) is to any pipeline of the family: arguments such as `prompt_embeds`,
        `pooled_prompt_embeds` and `prompt_attention_mask`, and those of `negative_prompt`, with
        `negative_` before their names, where the family has them.

        negative_prompt: one text, or one for each z; None is the empty text. Of its tokens the
        first Q count, as many as z has.

        Raises ConfigError for another number of texts.
        """
        tower = self._ready_tower()
        c = tower.forward(z.to(self._execution_device, _dtype(tower)))
        away = None
        if negative and self.family.record.negative_prompt:
            away = _away(tower, c, negative_prompt)
        return self._arguments(c, away)

    def _ready_tower(self) -> TextTower:
        """The tower, on the device that computes: it calls parts of text encoders, and where these
        are offloaded only whole ones have hooks.
        """
        for encoder in self._text_encoders().values():
            if (hook := getattr(encoder, "_hf_hook", None)) is not None:
                hook.pre_forward(encoder)
        return self.text_tower

    def _arguments(self, c: Conditioning, away: Conditioning | None) -> dict[str, Tensor]:
        made = dict(self.family.embeds(self.denoiser, c))
        if away is not None:
            negative = self.family.embeds(self.denoiser, away)
            made |= {f"negative_{name}": value for name, value in negative.items()}
        return made

    @torch.no_grad()
    def _arguments_of_prompt(
        self, prompt: str | Sequence[str], guided: bool, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """What draws texts. A tower that has no T5 beside its CLIPs reads them as in training."""
        tower = self._ready_tower()
        c, away = tower.encode_text(_texts(prompt)), None
        if guided and self.family.record.negative_prompt:
            away = _away(tower, c, settings.get("negative_prompt"))
        read = {"negative_prompt": None} if "negative_prompt" in settings else {}
        return {**self._arguments(c, away), **read}

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

    def save_pretrained(self, save_directory: str | Path, **others: Any) -> None:
        """Write a model folder, as `VLV.save_pretrained` does, with the components of this
        pipeline and its scheduler; what was opened with them is written too.

        Raises ConfigError for arguments that would change the files, and cannot.
        """
        pushed, name = others.pop("push_to_hub", False), others.pop("repo_id", None)
        options = publishing_of(others)
        refuse_others(others)
        with self._as_written() as model:
            model.save_pretrained(save_directory)
        if pushed:
            self.push_to_hub(name or Path(save_directory).name, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, and return the address of the commit.

        options: `vlv.checkpoints.publishing.publish`'s.
        """
        with self._as_written() as model:
            return model.push_to_hub(repo_id, **options)

    @contextmanager
    def _as_written(self) -> Iterator[VLV]:
        """`as_vlv` while its scheduler is that of this pipeline, whose files name it."""
        model = self.as_vlv()
        schedule, model.decoder.scheduler = model.decoder.scheduler, self.scheduler
        try:
            yield model
        finally:
            model.decoder.scheduler = schedule

    def as_vlv(self) -> VLV:
        """The same model as `vlv.VLV`, with the components that this pipeline has now. Its
        scheduler is the noise schedule of this pipeline's.

        Raises ConfigError where the encoder that was opened has been replaced, and CheckpointError
        for a scheduler of another kind of noise than the model's.
        """
        schedule = self._noise_schedule()
        if self._opened is None:
            drawing = DiffusionDecoder(
                self.vae, self.denoiser, schedule, self.image_size, self.family.name
            )
            return VLV.from_boxes(encoder=self.encoder, text_tower=self.text_tower, decoder=drawing)
        if self.encoder is not self._opened.encoder:
            raise ConfigError(
                "the encoder is not the one that was opened, whose captions and verifier would not "
                "fit; make a pipeline from its components"
            )
        decoder = self._opened.decoder
        decoder.vae, decoder.scheduler = self.vae, schedule
        setattr(decoder, self.family.record.denoiser, self.denoiser)
        tower = self._opened.text_tower
        inner = tower.inner if isinstance(tower, ConditioningEntry) else tower
        for name, encoder in self._text_encoders().items():
            setattr(inner, "clip" if name == "text_tower" else name, encoder)
        self._opened.device, self._opened.dtype = self.device, self.dtype
        if "caption_decoder" in self._opened.loaded:  # no component, so that it was not moved
            self._opened.caption_decoder.to(self.device, self.dtype)
        return self._opened

    def _noise_schedule(self) -> SchedulerMixin:
        """What the denoiser was trained on, of the sampler of this pipeline."""
        name = type(self.scheduler).__name__
        # As a file has it: defaults count as values, and the class is named.
        config = {k: v for k, v in self.scheduler.config.items() if k != _DEFAULTS}
        found = noise_schedule(
            {**config, "_class_name": name}, self.family.name, f"of the pipeline's {name}"
        )
        if self._opened is None:
            return found
        # What the sampler's config lacks or only samplers read is as it was when opened.
        kind: Any = type(found)
        before = {k: v for k, v in self._opened.decoder.scheduler.config.items() if k != _DEFAULTS}
        own = inspect.signature(kind.__init__).parameters.keys() & found.config.keys()
        made: SchedulerMixin = kind.from_config({**before, **{k: found.config[k] for k in own}})
        return made


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


def _dtype(tower: TextTower) -> torch.dtype:
    """The dtype of the text encoders."""
    dtype: torch.dtype = next(iter(tower.encoders.values())).dtype
    return dtype


def _part(name: TextEncoderName) -> str:
    """The component of diffusers that a text encoder is."""
    return "text_encoder" if name == "text_tower" else name


def _tokenizer(part: str) -> str:
    return part.replace("text_encoder", "tokenizer")


def _away(tower: TextTower, c: Conditioning, negative: str | Sequence[str] | None) -> Conditioning:
    """What guidance steers c away from: one text, or one for each sample, or the empty one."""
    length, texts = c.tokens.shape[1], _texts(negative or "")
    if not any(texts):
        return tower.unconditional(1, length).repeat(len(c))
    if len(texts) not in (1, len(c)):
        raise ConfigError(
            f"there are {len(texts)} negative prompts for {len(c)} pictures; give one, or one for "
            "each"
        )
    found = tower.cut(tower.encode_text(texts), length)
    return found.repeat(len(c)) if len(texts) == 1 else found


def _texts(prompt: str | Sequence[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)


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
