"""Building stage `text-to-image`: the stand-in for Stable Diffusion."""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from pydantic import Field

from vlv.checkpoints.components import load_network
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.families import load_family
from vlv.models.precision import use_fast_attention
from vlv.models.text_tower import TextTower
from vlv.models.tokenizers import train_clip_tokenizer
from vlv.training.accelerator import computing_device
from vlv.training.model_names import component_folder, model_folder, open_model
from vlv.training.objectives.text_to_image import TextToImageObjective
from vlv.training.provenance import record_of
from vlv.training.samples.held_out import WorldHeldOut
from vlv.training.samples.latents import LatentCache
from vlv.training.samples.world import (
    PromptedLatents,
    caption_texts,
    validation_images,
    world_data,
    world_images,
)
from vlv.training.stage import Stage
from vlv.training.stages.common import (
    DenoisingConfig,
    draw_settings,
    loss_weighting,
    model_config,
    warn_of_unread_model,
)
from vlv.training.starts import Starts

NAME = "text-to-image"


class TextToImageConfig(DenoisingConfig):
    """`vae` is the folder of the frozen VAE; some captions are left out, for guidance.

    `counted_captions` is the share of captions, of scenes of several objects, that tell how many
    there are and name none, some or all, so that the denoiser has to heed the number.

    The networks are fresh, of the sizes in `model`, or those of `initial_model`, a folder whose
    text tower and denoiser are trained further; `vae` may be another than the one they learned
    with. Without `train_text_tower` the tower stays as it is, so that what others have learned to
    read in c stays valid.
    """

    vae: Path
    initial_model: Path | None = None
    train_text_tower: bool = True
    caption_dropout: float = Field(0.1, ge=0, le=1)
    counted_captions: float = Field(0.0, ge=0, le=1)
    tokenizer_captions: int = Field(4000, gt=0)


def build(config: TextToImageConfig) -> Stage:
    """The stage with its networks and its pictures."""
    vae = load_network(AutoencoderKL, component_folder(config.vae, "vae"))
    images = world_images(world_data(config))
    tower, decoder, before = _networks(config, vae)
    objective = TextToImageObjective(
        tower,
        decoder,
        WorldHeldOut(validation_images(config), config.mixed_precision),
        train_text_tower=config.train_text_tower,
        weighting=loss_weighting(config),
    )
    use_fast_attention(objective, computing_device())
    samples = PromptedLatents(
        images,
        LatentCache(vae, images, config.mixed_precision),
        draw_settings(config, decoder),
        tower.prompt_tokens,
        counted_captions=config.counted_captions,
        caption_dropout=config.caption_dropout,
    )
    return Stage(NAME, config, objective, samples, before, starts_of(config))


def starts_of(config: TextToImageConfig) -> Starts:
    """What is frozen: the VAE."""
    return {"vae": {"vae": component_folder(config.vae, "vae")}}


def _networks(
    config: TextToImageConfig, vae: AutoencoderKL
) -> tuple[TextTower, DiffusionDecoder, dict[str, Any] | None]:
    """Tower and decoder, and the record of the run that they go on from."""
    if config.initial_model is not None:
        warn_of_unread_model(config, config.initial_model)
        model = open_model("initial_model", config.initial_model)
        tower, decoder = model.text_tower, model.decoder
        decoder.vae = vae
        return tower, decoder, record_of(model_folder(config.initial_model), NAME)
    sizes = model_config(config)
    family: Any = load_family(sizes.family)
    tokenizer = train_clip_tokenizer(caption_texts(config.tokenizer_captions))
    tower = family.fresh_text_tower(sizes.text_encoders, tokenizer)
    decoder = DiffusionDecoder(
        vae,
        family.denoiser_class(**sizes.denoiser),
        family.scheduler_class(**sizes.scheduler),
        sizes.decoder_image_size,
        sizes.family,
    )
    return tower, decoder, None
