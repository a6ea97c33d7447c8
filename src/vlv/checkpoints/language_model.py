"""Causal language models in folders: read and written with their tokenizers.

Knows the classes of transformers; knows nothing of pictures or conditionings.
"""

from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vlv.checkpoints.components import (
    brief,
    load_network,
    load_tokenizer,
    save_network,
    save_tokenizer,
)
from vlv.checkpoints.inspection import inspect_base_model
from vlv.errors import CheckpointError


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
    inspect_base_model("language_model", folder)
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
