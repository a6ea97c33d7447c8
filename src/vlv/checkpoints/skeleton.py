"""Models of published sizes without their weights, for counting and for timing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Florence2Config,
    Florence2Model,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vlv.checkpoints.published import DECODER_IMAGE_SIZE, ENCODER_IMAGE_SIZE, known_base_model
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import EncoderSettings, FamilyName
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import TASK_PROMPTS, VLVEncoder
from vlv.models.families import FAMILIES, load_family
from vlv.models.families.sana import SanaTextTower
from vlv.models.text_tower import TextTower
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)
from vlv.models.vlv import VLVModel


def skeleton(
    encoder: str | None = None,
    decoder: str | None = None,
    language_model: str | None = None,
    *,
    device: str = "meta",
    dtype: torch.dtype = torch.float32,
) -> VLVModel:
    """A VLV of known parts at full size with no weights (device "meta") or with random ones.

    For counting and for timing: its tokenizers are small ones of the right classes, since the
    published ones are downloads; sizes of vocabularies and the length of an instruction are the
    published ones. None: the default part.

    Raises ConfigError for an id that the table does not hold.
    """
    texts = list(TASK_PROMPTS.values())
    record = known_base_model("decoder", decoder)
    diffusion, family = record.config, record.family
    with torch.device(device), _default_dtype(dtype):
        tower = _text_tower(family, diffusion["text_tower"], train_clip_tokenizer(texts))
        if record.instruction_tokens is not None:
            assert isinstance(tower, SanaTextTower)  # no other has an instruction
            tower.assume_instruction(record.instruction_tokens)
        model = VLVModel.from_boxes(
            encoder=VLVEncoder(
                Florence2Model(Florence2Config(**known_base_model("encoder", encoder).config)),
                train_florence_tokenizer(texts),
                EncoderSettings(image_size=ENCODER_IMAGE_SIZE),
                tower.slot_widths,
            ),
            text_tower=tower,
            decoder=DiffusionDecoder.from_config(
                diffusion["vae"],
                diffusion[FAMILIES[family].denoiser],
                diffusion["scheduler"],
                DECODER_IMAGE_SIZE,
                family,
            ),
            caption_decoder=CaptionDecoder(
                _language_model(known_base_model("language_model", language_model).config),
                train_qwen2_tokenizer(texts),
                tower.conditioning_width,
            ),
        )
    return model


def _text_tower(
    family: FamilyName, configs: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> TextTower:
    """A text tower without the encoders that the family can do without; vocabularies have the
    published sizes.
    """
    known = load_family(family)
    names = known.record.required
    encoders = {}
    for name in names:
        kind: Any = known.text_encoder_classes[name]
        config = configs if names == ["text_tower"] else configs[name]
        encoders[name] = kind(kind.config_class(**config))
    return known.text_tower(encoders, dict.fromkeys(names, tokenizer))


def _language_model(config: dict[str, Any]) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return model


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
