"""Models for timing: the paper's parts at full width with few layers and random weights, and tiny
ones; photographs for them.

A part's time grows in proportion to its layers, so that ratios and shares of the machine's limit
at few layers are those of the whole part, but for what stands before and after the layers: the
embeddings and the language model's head over its vocabulary weigh more here.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPTextConfig,
    CLIPTextModel,
    Florence2Config,
    Florence2Model,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from vlv.checkpoints.published import (
    DECODER_IMAGE_SIZE,
    ENCODER_IMAGE_SIZE,
    default_base_model,
    known_base_models,
)
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import EncoderSettings
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import TASK_PROMPTS, VLVEncoder
from vlv.models.families.stable_diffusion import CLIPTextTower
from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import train_clip_tokenizer, train_florence_tokenizer
from vlv.pipeline import VLV
from vlv.training.reproduce import configs_folder

SIZES = ("full-width", "tiny")
LAYERS = 2
VOCABULARY = 1000  # of the tiny model


def write_model(
    folder: Path,
    size: str,
    *,
    captions: bool,
    language_model: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, str]:
    """Write a random model with a captioner, or else with a diffusion decoder, into `folder`.

    language_model: a config in place of that with few layers. dtype: of the stored weights.
    Returns what it is made of, in words.
    """
    parts = _full_width() if size == "full-width" else _tiny()
    prompts = list(TASK_PROMPTS.values()) * 2
    torch.manual_seed(0)
    tower = CLIPTextTower(
        CLIPTextModel(CLIPTextConfig(**parts["text_tower"])), train_clip_tokenizer(prompts)
    )
    boxes: dict[str, Any] = {
        "encoder": VLVEncoder(
            Florence2Model(Florence2Config(**parts["florence"])),
            train_florence_tokenizer(prompts),
            parts["settings"],
            tower.slot_widths,
        ),
        "text_tower": tower,
    }
    if captions:
        config = language_model or parts["language_model"]
        lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=dtype)
        tokenizer = numbered_words(config["vocab_size"])
        boxes["caption_decoder"] = CaptionDecoder(lm, tokenizer, tower.width)
    else:
        boxes["decoder"] = DiffusionDecoder.from_config(
            parts["vae"], parts["unet"], parts["scheduler"], parts["decoder_size"]
        )
    VLV.from_boxes(**boxes).save_pretrained(folder, dtype)
    return _described(boxes)


def numbered_words(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer in which every id is a word of its own, so that equal captions are equal tokens;
    every sixteenth word ends a sentence.
    """
    words = {f"Ġw{i}" + ("." if i % 16 == 0 else ""): i for i in range(1, count)}
    return Qwen2Tokenizer(vocab={"<|endoftext|>": 0, **words}, merges=[])


def photographs(folder: Path, count: int, size: str) -> list[Path]:
    """JPEG files of soft random colours with grain, landscape format."""
    folder.mkdir()
    shape = (640, 480) if size == "full-width" else (80, 60)
    files = [folder / f"{index}.jpg" for index in range(count)]
    for index, file in enumerate(files):
        random = np.random.default_rng(index)
        colours = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize(shape, Image.Resampling.BICUBIC), dtype=np.float32)
        grained = (smooth + random.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(grained).save(file, quality=90)
    return files


def _full_width() -> dict[str, Any]:
    florence, diffusion, language = (
        copy.deepcopy(known_base_models(role)[default_base_model(role)].config)
        for role in ("encoder", "decoder", "language_model")
    )
    florence["vision_config"]["depths"] = [1, 1, 1, 1]
    florence["text_config"] |= {"encoder_layers": LAYERS, "decoder_layers": LAYERS}
    return {
        "florence": florence,
        "settings": EncoderSettings(image_size=ENCODER_IMAGE_SIZE, crop_size=DECODER_IMAGE_SIZE),
        "decoder_size": DECODER_IMAGE_SIZE,
        "text_tower": {**diffusion["text_tower"], "num_hidden_layers": LAYERS},
        "unet": {**diffusion["unet"], "layers_per_block": 1},
        "vae": {**diffusion["vae"], "layers_per_block": 1},
        "scheduler": diffusion["scheduler"],
        "language_model": {**language, "num_hidden_layers": LAYERS},
    }


def _tiny() -> dict[str, Any]:
    mini = VLVConfig.from_yaml(configs_folder() / "mini" / "model.yaml")
    florence = copy.deepcopy(mini.encoder.florence)
    florence["text_config"] |= {"model_type": "bart", "vocab_size": VOCABULARY}
    return {
        "florence": florence,
        "settings": EncoderSettings(image_size=mini.encoder.image_size, crop_size=48),
        "decoder_size": mini.decoder_image_size,
        "text_tower": {
            **mini.text_tower,
            "vocab_size": VOCABULARY,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        "unet": mini.unet,
        "vae": mini.vae,
        "scheduler": mini.scheduler,
        "language_model": {
            **mini.language_model,
            "model_type": "qwen2",
            "vocab_size": VOCABULARY,
        },
    }


def _described(boxes: dict[str, Any]) -> dict[str, str]:
    vision = boxes["encoder"].florence.config.vision_config
    text, clip = boxes["encoder"].florence.config.text_config, boxes["text_tower"].clip.config
    facts = {
        "Florence-2": f"DaViT of widths {list(vision.embed_dim)}, depths {list(vision.depths)}; "
        f"transformer of width {text.d_model}, {text.encoder_layers} + {text.decoder_layers} "
        f"layers; pictures of {boxes['encoder'].settings.image_size} px; "
        + _millions(boxes["encoder"]),
        "text tower": f"width {clip.hidden_size}, {clip.num_hidden_layers} layers; "
        + _millions(boxes["text_tower"]),
    }
    if "caption_decoder" in boxes:
        lm = boxes["caption_decoder"].lm
        facts["language model"] = (
            f"width {lm.config.hidden_size}, {lm.config.num_hidden_layers} layers, vocabulary of "
            f"{lm.config.vocab_size:,}; {_millions(lm)}"
        )
    if "decoder" in boxes:
        decoder = boxes["decoder"]
        for name, network in (("U-Net", decoder.unet), ("VAE", decoder.vae)):
            facts[name] = (
                f"widths {list(network.config.block_out_channels)}, "
                f"{network.config.layers_per_block} layer a block; {_millions(network)}"
            )
        facts["VAE"] += f"; pictures of {decoder.image_size} px"
    return facts


def _millions(network: torch.nn.Module) -> str:
    return f"{sum(one.numel() for one in network.parameters()) / 1e6:.0f} M parameters"
