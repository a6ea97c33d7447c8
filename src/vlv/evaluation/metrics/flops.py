"""Floating-point operations of a training step, counted on boxes without weights.

A step runs forward and backward on the meta device, as in training. A multiplication with its
addition counts as two operations. Matrix products, convolutions and attention are counted (causal
attention as the whole square); sums, norms and the optimizer are not.

Shapes: B = 1 batch, K draws of noise, C, h, w latents, L caption tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.vlv import VLVModel
from vlv.training.config import TrainingConfig, WorldDataConfig, check_config
from vlv.training.memory import encoder_objective
from vlv.training.objectives.encoding import EncoderObjective
from vlv.training.objectives.inspector import InspectorObjective
from vlv.training.objectives.language_model import LanguageModelObjective
from vlv.training.objectives.objective import Objective
from vlv.training.objectives.text_to_image import TextToImageObjective
from vlv.training.samples.data_order import numpy_generator
from vlv.training.samples.inspector_targets import scene_targets
from vlv.training.samples.source import Batch
from vlv.training.samples.tokens import CaptionTokens
from vlv.training.stages import vae
from vlv.training.stages.inspector import InspectorConfig
from vlv.training.stages.language_model import LanguageModelConfig, text_samples
from vlv.training.stages.stage1 import Stage1Config
from vlv.training.stages.stage2 import Stage2Config
from vlv.training.stages.text_to_image import TextToImageConfig
from vlv.training.stages.vae import VAEConfig
from vlv.world.inspector import Inspector
from vlv.world.language import short_caption
from vlv.world.scene import sample_scene

# Batches whose longest captions are averaged, since padding is computed too.
_BATCHES = 8
_CONFIGS: dict[str, type[TrainingConfig]] = {
    "vae": VAEConfig,
    "text-to-image": TextToImageConfig,
    "language-model": LanguageModelConfig,
    "inspector": InspectorConfig,
    "stage1": Stage1Config,
    "stage2": Stage2Config,
}


def step_flops(objective: Objective, batch: Batch) -> int:
    """Of one forward and backward pass on tensors of the meta device."""
    objective.train()
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    with counter, _NothingPadded():
        loss, _ = objective(batch)
        loss.backward()
    return int(counter.get_total_flops())


def sample_flops(name: str, record: dict[str, Any], model: VLVModel, inspector: Inspector) -> int:
    """Of one sample of a mini stage, by the record of its run in the model's provenance.

    The boxes are of the meta device; those that the stage trains are the model's own.

    Raises:
        ConfigError: the record is of another version's config.
    """
    config = check_config(_CONFIGS[name], record["config"], f"of {name} in vlv.json")
    return step_flops(*_step(config, model, inspector))


def _step(config: TrainingConfig, model: VLVModel, inspector: Inspector) -> tuple[Objective, Batch]:
    if isinstance(config, InspectorConfig):
        inspector.requires_grad_(True)
        truth = default_collate([scene_targets(sample_scene(0, "train"))])
        return InspectorObjective(inspector), {
            "image": _empty(1, 3, 64, 64),
            **{name: value.to("meta") for name, value in truth.items()},
        }
    if isinstance(config, LanguageModelConfig):
        caption_decoder = model.caption_decoder.requires_grad_(True)
        texts = text_samples(config, caption_decoder.tokenizer)
        count = _BATCHES * config.train_batch_size
        lengths = [int(texts.item(at, at)["caption_length"]) for at in range(count)]
        return LanguageModelObjective(caption_decoder), _caption(_longest(lengths))
    decoder = model.decoder
    if isinstance(config, VAEConfig):
        objective = vae.make_objective(config, decoder.vae.requires_grad_(True))
        image = torch.empty(1, *(2 * [decoder.image_size]), 3, dtype=torch.uint8, device="meta")
        return objective, {"image": image, "noise": _empty(1, *decoder.latent_shape)}
    if isinstance(config, TextToImageConfig):
        tower = model.text_tower
        ids = torch.empty(1, tower.positions, dtype=torch.long, device="meta")
        drawing = TextToImageObjective(tower, decoder, train_text_tower=config.train_text_tower)
        return drawing, {"input_ids": ids, **_draws(decoder, 1, cached=True)}
    assert isinstance(config, Stage1Config | Stage2Config)  # there are no other stages
    return encoder_step(config, model, _caption_tokens(config, model))


def encoder_step(
    config: Stage1Config | Stage2Config, model: VLVModel, caption_tokens: int
) -> tuple[EncoderObjective, Batch]:
    """Stage 1 or 2 on one picture. Latents come from the cache, but for images on disk without one:
    theirs are computed in the step.
    """
    objective = encoder_objective(config, model)
    sides = {"image": model.decoder.image_size, "encoder_image": model.encoder.settings.image_size}
    batch: Batch = {
        name: torch.empty(1, side, side, 3, dtype=torch.uint8, device="meta")
        for name, side in sides.items()
    }
    if isinstance(config, Stage2Config):
        batch |= _caption(caption_tokens)
    if objective.denoises:
        draws = config.noise_draws if isinstance(config, Stage1Config) else 1
        cached = isinstance(config.data, WorldDataConfig) or config.data.latents is not None
        batch |= _draws(model.decoder, draws, cached=cached)
    return objective, batch


def _caption_tokens(config: TrainingConfig, model: VLVModel) -> int:
    """L of a batch; of captions on disk only the most that they can have is known."""
    if not isinstance(config, Stage2Config):
        return 0
    data = config.data
    if not isinstance(data, WorldDataConfig):
        return config.max_tokens
    tokens = CaptionTokens(model.caption_decoder.tokenizer, config.max_tokens)
    lengths = []
    for at in range(_BATCHES * config.train_batch_size):
        scene = sample_scene(data.first_seed + at, data.split)
        text = short_caption(scene, numpy_generator(config.seed, at, "caption"))
        lengths.append(int(tokens.item(text)["caption_length"]))
    return _longest(lengths)


def _longest(lengths: list[int]) -> int:
    """The longest caption of a batch, on average over the batches."""
    size = len(lengths) // _BATCHES
    longest = [max(lengths[at : at + size]) for at in range(0, len(lengths), size)]
    return round(sum(longest) / _BATCHES)


def _caption(tokens: int) -> Batch:
    # The length is read, so it has contents.
    ids = torch.empty(1, tokens, dtype=torch.long, device="meta")
    return {"caption_ids": ids, "caption_length": torch.tensor([tokens])}


def _draws(decoder: DiffusionDecoder, draws: int, *, cached: bool) -> Batch:
    latent = decoder.latent_shape
    made: Batch = {"noise": _empty(1, draws, *latent), "u": _empty(1, draws)}
    if cached:
        return {"latents": _empty(1, draws, *latent), **made}
    return {"posterior_noise": _empty(1, *latent), **made}


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def _convolution_backward(
    gradient: Any, image: Any, kernel: Any, *rest: Any, out_shape: Any
) -> int:
    """Each gradient costs what the convolution does.

    The library's own formula ignores that a weight of a grouped convolution belongs to one group:
    it counts the gradient of Florence-2's depthwise kernels as that of dense ones.
    """
    *_, transposed, _padding, _groups, wanted = rest
    forward = conv_flop_count(image, kernel, gradient, transposed=transposed)
    return int((wanted[0] + wanted[1]) * forward)


class _NothingPadded(TorchFunctionMode):
    """Answers the libraries' question whether a mask pads anything: on the meta device a mask has
    no contents.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__ and args[0].is_meta:
            return True
        return func(*args, **(kwargs or {}))
