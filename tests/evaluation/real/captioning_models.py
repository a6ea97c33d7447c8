"""Tiny captioners of transformers with random weights, saved as the Hub has them: Florence-2, a
LLaVA that chats, and a CLIP. The classes are the real ones, the processors among them.
"""

from pathlib import Path

import torch
from tests.tiny import TEXTS, TINY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)

_IMAGE = "<image>"
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 16,
}
_CHAT = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}\n"
)


def _images(side: int) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"height": side, "width": side}, crop_size={"height": side, "width": side}
    )


def save_florence(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_florence_tokenizer(TEXTS)
    tokenizer.save_pretrained(folder)
    # Named as in the tokenizers of the published models.
    tokenizer = type(tokenizer).from_pretrained(
        folder, extra_special_tokens={"image_token": _IMAGE}
    )
    florence = TINY["encoder"]["florence"]  # type: ignore[index]
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id,
    }
    config = Florence2Config(
        vision_config=florence["vision_config"],
        text_config={
            "model_type": "bart",
            **florence["text_config"],
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 256,
            **special,
        },
        image_token_id=tokenizer.image_token_id,
        **special,
    )
    images = _images(32)
    images.image_seq_length = 17
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    Florence2Processor(images, tokenizer).save_pretrained(folder)


def save_llava(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_qwen2_tokenizer(TEXTS)
    tokenizer.add_special_tokens({"additional_special_tokens": [_IMAGE]})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION),
        text_config=LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=2048,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE),
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        _images(32),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=_CHAT,
        image_token=_IMAGE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def save_clip(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_clip_tokenizer(TEXTS)
    config = CLIPConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config=_VISION,
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(_images(32), tokenizer).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    torch.manual_seed(0)
    words = sorted({word for text in TEXTS for word in text.split()} | {"A", "photo", "depicts"})
    vocabulary = {word: number for number, word in enumerate(["</s>", "<unk>", *words])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_of_words(vocabulary),
        pad_token="</s>",
        eos_token="</s>",
        model_input_names=["input_ids"],
        unk_token="<unk>",
    )
    sizes = {name: value for name, value in _VISION.items() if name != "projection_dim"}
    text = {name: sizes[name] for name in sizes if name not in ("image_size", "patch_size")}
    config = SiglipConfig(
        text_config={**text, "vocab_size": len(vocabulary), "max_position_embeddings": 32},
        vision_config=sizes,
    )
    SiglipModel(config).save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    SiglipProcessor(images, tokenizer).save_pretrained(folder)


def _of_words(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
