"""The caption decoder without its language model, which an engine runs itself.

What stays here is small: psi, the tokenizer, and the embeddings of the few tokens that a prompt may
end with. The language model's weights are never read as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vlv.checkpoints.adapters import adapter_record
from vlv.checkpoints.boxes import load_psi
from vlv.checkpoints.components import check_buffers, load_tokenizer, weights_name
from vlv.checkpoints.headers import tensor_shapes
from vlv.checkpoints.inspection import inspect_base_model
from vlv.checkpoints.language_model import language_model_class
from vlv.checkpoints.manifest import component_folder
from vlv.checkpoints.parts import GGUF_FILE, PARTS
from vlv.checkpoints.weights import weight_files
from vlv.errors import CheckpointError, ConfigError
from vlv.models.vlv import VLVModel


@dataclass(frozen=True)
class PromptParts:
    """psi, the tokenizer, and the folder of the language model in the library's format."""

    psi: nn.Module
    tokenizer: PreTrainedTokenizerFast
    language_model: Path

    _table: tuple[Path, str] | None
    """File and name of the token embeddings; None where there are no weights but a GGUF file's."""

    @property
    def is_gguf(self) -> bool:
        """Whether the language model is a GGUF file."""
        return self._table is None

    @property
    def width(self) -> int:
        """d_LM, the width of prompt embeddings."""
        width: int = self.psi[2].out_features  # type: ignore[index]
        return width

    def token_embeddings(self, ids: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The language model's input embeddings (L,d_LM) of L tokens, read row by row."""
        if not ids:
            return torch.empty(0, self.width, dtype=dtype)
        if self._table is None:
            raise CheckpointError(
                f"{self.language_model} holds a GGUF file alone; use --engine llama.cpp"
            )
        file, name = self._table
        with safe_open(file, framework="pt") as stored:
            rows = stored.get_slice(name)
            return torch.cat([rows[one : one + 1] for one in ids]).to(dtype)


def load_prompt_parts(model: VLVModel) -> PromptParts:
    """Those of a model that was opened from a folder.

    Raises:
        ConfigError: the model is not in a folder, or its language model has an adapter.
    """
    folder = _caption_decoder_folder(model)
    place = folder / Path(PARTS["language_model"].folder).name
    inspect_base_model("language_model", place)
    tokenizer = load_tokenizer(AutoTokenizer, place)
    psi = load_psi(folder, model.dtype).to(model.device)
    return PromptParts(psi, tokenizer, place, _embedding_table(place))


def _embedding_table(folder: Path) -> tuple[Path, str] | None:
    if (folder / GGUF_FILE).is_file():
        return None
    kind = language_model_class(folder)
    network = check_buffers(kind, folder)
    table = network.get_input_embeddings()
    name = next(name for name, module in network.named_modules() if module is table) + ".weight"
    for file in weight_files(folder / weights_name(kind)):
        if name in dict(tensor_shapes(file)):
            return file, name
    raise CheckpointError(f"{folder} lacks the tensor {name!r}.")


def _caption_decoder_folder(model: VLVModel) -> Path:
    if model.opened_from is None or model.folder is None:
        raise ConfigError(
            "this engine reads the language model from a model folder; save the model first"
        )
    model.require("caption_decoder")
    record = adapter_record(model.opened_from)
    if record is not None and record.method == "full":
        return model.opened_from / "caption_decoder"
    if record is not None:
        raise ConfigError(
            f"{model.opened_from} is a LoRA beside another model, and this engine runs whole "
            f"language models; write one with: vlv finetune --merge {model.opened_from} --out OUT"
        )
    return component_folder("caption_decoder", model.folder)
