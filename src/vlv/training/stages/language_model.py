"""Stage `language-model`: the stand-in for Qwen2.5, trained on the world's text. No pictures."""

import math
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from vlv.checkpoints.language_model import save_language_model
from vlv.models.attention import use_fast_attention
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.tokenizers import train_qwen2_tokenizer
from vlv.training.accelerator import computing_device
from vlv.training.config import TrainingConfig
from vlv.training.samples.data_order import numpy_generator
from vlv.training.stage import Batch, Stage
from vlv.training.stages.common import VALIDATION_SEED, caption_texts, model_config, world_data
from vlv.world.language import long_caption, short_caption
from vlv.world.scene import sample_scene


class LanguageModelConfig(TrainingConfig):
    """`long_share` of the texts are long captions, the others short ones."""

    long_share: float = Field(0.25, ge=0, le=1)
    max_tokens: int = Field(160, gt=0)
    tokenizer_captions: int = Field(4000, gt=0)


class LanguageModelStage(Stage):
    """Next-token cross-entropy on texts of the training scenes, each with its end token."""

    name = "language-model"

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config: LanguageModelConfig = config
        sizes = model_config(config)
        tokenizer = train_qwen2_tokenizer(caption_texts(config.tokenizer_captions))
        width = int(sizes.text_tower["hidden_size"])
        self.captioner = CaptionDecoder.from_config(sizes.language_model, tokenizer, width)
        self.captioner.psi.requires_grad_(False)
        use_fast_attention(self, computing_device())

    @property
    def size(self) -> int:
        return world_data(self.config).count

    def item(self, position: int, index: int) -> Batch:
        data = world_data(self.config)
        rng = numpy_generator(self.config.seed, position, "text")
        write = long_caption if rng.random() < self.config.long_share else short_caption
        text = write(sample_scene(data.first_seed + index, data.split), rng)
        return caption_item(self.captioner, text, self.config.max_tokens)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        ids, lengths = trim(batch)
        return self.captioner.text_loss(ids, lengths), {}

    def validate(self) -> dict[str, float]:
        rng = numpy_generator(0, 0, "validation")
        texts = [
            short_caption(sample_scene(VALIDATION_SEED + i, "test"), rng)
            for i in range(self.config.validation_count)
        ]
        losses = []
        for start in range(0, len(texts), 64):
            ids, lengths = self.captioner.tokenise(texts[start : start + 64])
            loss = self.captioner.text_loss(ids.to(self.device), lengths.to(self.device))
            losses.append(float(loss))
        mean = sum(losses) / len(losses)
        return {"loss/short": mean, "perplexity/short": math.exp(mean)}

    def export(self, folder: Path) -> None:
        save_language_model(self.captioner.lm, self.captioner.tokenizer, folder / "language_model")


def caption_item(captioner: CaptionDecoder, text: str, max_tokens: int) -> Batch:
    """Ids of one text padded to a fixed length, so that texts stack, and its length."""
    ids, lengths = captioner.tokenise([text], max_tokens)
    padded = torch.zeros(max_tokens, dtype=torch.long)
    padded[: ids.shape[1]] = ids[0]
    return {"caption_ids": padded, "caption_length": lengths[0]}


def trim(batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids cut to the longest text of the batch, and lengths."""
    lengths = batch["caption_length"]
    return batch["caption_ids"][:, : int(lengths.max())], lengths
