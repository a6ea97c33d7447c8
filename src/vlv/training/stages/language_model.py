"""Building stage `language-model`: the stand-in for Qwen2.5."""

from pydantic import Field
from transformers import PreTrainedTokenizerFast

from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.precision import use_fast_attention
from vlv.models.tokenizers import train_qwen2_tokenizer
from vlv.training.accelerator import computing_device
from vlv.training.config import TrainingConfig
from vlv.training.objectives.language_model import LanguageModelObjective
from vlv.training.samples.source import SampleSource
from vlv.training.samples.tokens import CaptionTokens
from vlv.training.samples.world import TextSamples, caption_texts, validation_texts, world_data
from vlv.training.stage import Stage
from vlv.training.stages.common import model_config

NAME = "language-model"


class LanguageModelConfig(TrainingConfig):
    """`long_share` of the texts are long captions, the others short ones."""

    long_share: float = Field(0.25, ge=0, le=1)
    max_tokens: int = Field(160, gt=0)
    tokenizer_captions: int = Field(4000, gt=0)


def build(config: LanguageModelConfig) -> Stage:
    """The stage with its network and its texts."""
    sizes = model_config(config)
    tokenizer = train_qwen2_tokenizer(caption_texts(config.tokenizer_captions))
    # Psi, which reads c, takes no part here; a T5 calls its width d_model.
    encoders = sizes.text_encoders.values()
    width = sum(int(one.get("hidden_size") or one["d_model"]) for one in encoders)
    caption_decoder = CaptionDecoder.from_config(sizes.language_model, tokenizer, width)
    texts = validation_texts(config.validation_count)
    objective = LanguageModelObjective(caption_decoder, texts)
    use_fast_attention(objective, computing_device())
    return Stage(NAME, config, objective, text_samples(config, tokenizer))


def text_samples(config: LanguageModelConfig, tokenizer: PreTrainedTokenizerFast) -> SampleSource:
    """The texts that a run learns from."""
    tokens = CaptionTokens(tokenizer, config.max_tokens)
    return TextSamples(world_data(config), tokens, config.seed, config.long_share)
