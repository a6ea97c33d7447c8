"""Causal language models in folders: built, read and written with their tokenizers.

Knows the classes of transformers; knows nothing of pictures or conditionings.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vlv.checkpoints.components import (
    brief,
    load_network,
    load_tokenizer,
    save_network,
    save_tokenizer,
)
from vlv.checkpoints.inspection import inspect_part
from vlv.errors import CheckpointError


def build_language_model(
    config: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> Qwen2ForCausalLM:
    """A Qwen2 with fresh weights; vocabulary and special ids are the tokenizer's."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            **{
                **config,
                "vocab_size": len(tokenizer),
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": tokenizer.bos_token_id,
            }
        )
    )


def save_language_model(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a language model and its tokenizer into one folder."""
    save_network(lm, folder, dtype)
    save_tokenizer(tokenizer, folder)


def load_language_model(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Read what `save_language_model` wrote: any causal language model that transformers knows."""
    inspect_part("language_model", folder)
    lm = load_network(language_model_class(folder), folder, dtype)
    return lm, load_tokenizer(AutoTokenizer, folder)


def language_model_class(folder: Path) -> type[PreTrainedModel]:
    """The class of the causal language model whose config lies in `folder`; never remote code.

    Raises CheckpointError where there is no config, or it is no causal language model's.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"The file {folder / 'config.json'} is missing.")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except Exception as error:  # whatever a library trips over in a config of unknown origin
        raise CheckpointError(
            f"{folder} holds no causal language model that transformers knows: {brief(error)}"
        ) from error
    return kind
