"""What a family of text-to-image models provides beside its VAE (`vlv.models.latent_codec`).

A family knows the library's classes and how they are called; it holds no weights. Nothing here
imports diffusers before a diffusion decoder is made: captions do without it. `docs/decoders.md`
says how to add a family.

Shapes: B batch, C latent channels, h,w latent size, H,W image size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vlv.models.conditioning import Conditioning
from vlv.models.config import FamilyName, TextEncoderName
from vlv.models.families import FAMILIES, FamilyRecord
from vlv.models.noise_process import DDPMNoise, FlowNoise, NoiseProcess
from vlv.models.text_tower import SeveralEncoders, TextTower

if TYPE_CHECKING:
    from diffusers import ModelMixin, SchedulerMixin

# What may stand for a sampler in place of its class's name.
Samplers = Mapping[str, str]
DDPM_SAMPLERS: Samplers = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++sde": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
}
# On the straight paths of a flow, the steps of DDIM are those of Euler's method.
FLOW_SAMPLERS: Samplers = {
    "ddim": "FlowMatchEulerDiscreteScheduler",
    "dpm++sde": "DPMSolverMultistepScheduler",
    "euler": "FlowMatchEulerDiscreteScheduler",
}
# What a sampler is made with where the name says more than the class.
SAMPLER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "dpm++sde": {"algorithm_type": "sde-dpmsolver++"}
}
TextEncoderConfigs = Mapping[TextEncoderName, Mapping[str, Any]]


class Family(ABC):
    """The four pieces of a family, and the pipeline that draws with them."""

    name: FamilyName
    # The library's classes of the text encoders and their tokenizers, by the encoders' names.
    text_encoder_classes: Mapping[TextEncoderName, type[PreTrainedModel]]
    tokenizer_classes: Mapping[TextEncoderName, type[PreTrainedTokenizerFast]]
    # Classes of diffusers by name, which is imported when they are needed.
    vae_class_name: str = "AutoencoderKL"
    # Values of the VAE's config that the pipeline computes with, where the config has none.
    vae_defaults: Mapping[str, float] = {}
    denoiser_class_name: str
    scheduler_class_name: str
    noise_class: type[DDPMNoise] | type[FlowNoise]
    tower_class: type[SeveralEncoders]
    samplers: Samplers
    # With fresh noise in every step where the pipelines of the family pass a generator.
    default_sampler: str
    # Whether tokens that the mask of c leaves out change nothing of the prediction.
    heeds_mask: bool = False
    # Whether the tokens of c are all that the pipeline is given, so that they can change between
    # steps.
    takes_late_prompts: bool = False

    @property
    def record(self) -> FamilyRecord:
        """What is known of it without loading it."""
        return FAMILIES[self.name]

    @property
    def vae_class(self) -> type["ModelMixin"]:
        """The library's class of the VAE."""
        return _of_diffusers(self.vae_class_name)

    @property
    def denoiser_class(self) -> type["ModelMixin"]:
        """The library's class of the denoiser."""
        return _of_diffusers(self.denoiser_class_name)

    @property
    def scheduler_class(self) -> type["SchedulerMixin"]:
        """The library's class of the noise schedule that training uses."""
        return _of_diffusers(self.scheduler_class_name)

    def text_tower(
        self,
        encoders: Mapping[TextEncoderName, PreTrainedModel],
        tokenizers: Mapping[TextEncoderName, PreTrainedTokenizerFast],
    ) -> TextTower:
        """The text tower of encoders and tokenizers by their names."""
        return self.tower_class(encoders, tokenizers)

    def fresh_text_tower(
        self,
        configs: Mapping[TextEncoderName, Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerFast,
    ) -> TextTower:
        """A text tower with fresh weights; all its encoders have the vocabulary and the special ids
        of one tokenizer.
        """
        encoders = {}
        for name, config in configs.items():
            kind: Any = self.text_encoder_classes[name]
            encoders[name] = kind(kind.config_class(**{**config, **_vocabulary(tokenizer)}))
        return self.text_tower(encoders, dict.fromkeys(configs, tokenizer))

    def text_encoder_settings(self, pipeline: Mapping[str, Any]) -> TextEncoderConfigs:
        """What a published pipeline's config (model_index.json) says of its text encoders, to be
        kept in theirs.
        """
        return {}

    def noise_process(self, scheduler: Any) -> NoiseProcess:
        """Latents to noisy latents, and what is to be predicted."""
        return self.noise_class(scheduler)

    @abstractmethod
    def denoise(
        self, network: Any, noisy: Tensor, timesteps: Tensor, c: Conditioning, image_size: int
    ) -> Tensor:
        """Prediction (B,C,h,w) for noisy latents (B,C,h,w) at timesteps (B,)."""

    def embeds(self, network: Any, c: Conditioning) -> dict[str, Tensor]:
        """The conditioning as the pipeline takes it, by names of arguments without `negative_`."""
        if c.pooled is None:
            return {"prompt_embeds": c.tokens}
        return {"prompt_embeds": c.tokens, "pooled_prompt_embeds": c.pooled}

    def pipeline_parts(self) -> dict[str, Any]:
        """What the pipeline is made with beside VAE, denoiser and scheduler: no text encoders."""
        names = self.record.text_encoders
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in names]
        return dict.fromkeys([*names, *tokenizers])

    def pipeline_arguments(self) -> dict[str, Any]:
        """What the pipeline is called with beside c, size, steps, guidance and noise."""
        return {}

    def widths_fault(
        self, text_encoders: TextEncoderConfigs, denoiser: Mapping[str, Any]
    ) -> str | None:
        """Why configs of text encoders and a denoiser do not fit each other, in a sentence without
        its full stop; None where they do.
        """
        return None


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _of_diffusers(name: str) -> Any:
    import diffusers

    return getattr(diffusers, name)
