"""Folders of a fine-tune: a LoRA of the language model in peft's format and psi beside it, or a
whole caption decoder, for the boxes of another model, the base.

A LoRA is merged into the language model when it is opened, which needs no peft and costs nothing
later; a quantized language model keeps it apart. Knows folders and language models; trains nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vlv.checkpoints.components import check_shapes, fit_weights, read_settings, write_settings
from vlv.checkpoints.content_hash import content_hash
from vlv.checkpoints.inspection import inspect_adapter
from vlv.checkpoints.manifest import read_manifest
from vlv.checkpoints.parts import GGUF_FILE, MANIFEST_FILE, PARTS, TEXT_ENCODERS, PartName
from vlv.checkpoints.weights import load_weights, save_weights, stored_shapes, tensor_files
from vlv.errors import CheckpointError, ConfigError
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import AdapterRecord
from vlv.text import printable

# peft's names of the files of an adapter, and of the one adapter of a network.
ADAPTER_WEIGHTS, ADAPTER_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_PREFIX, _NAME = "base_model.model.", "default"
_ROWS = ".token_adapter.trainable_tokens_delta"
_PSI_FILE = PARTS["psi"].file
# What captions depend on.
_READ: tuple[PartName, ...] = (
    "encoder",
    "head",
    "text_tower",
    *TEXT_ENCODERS,
    "psi",
    "language_model",
)


class LoraSettings(BaseModel):
    """The LoRA that is read and written, as peft's `adapter_config.json` has it; what else peft
    knows must be at its default, since it would change the result.
    """

    model_config = ConfigDict(extra="ignore")

    peft_type: Literal["LORA"] = "LORA"
    task_type: Literal["CAUSAL_LM"] | None = "CAUSAL_LM"
    r: int = Field(ge=1, le=4096)
    lora_alpha: int = Field(ge=1, le=100_000)
    target_modules: list[str] = Field(min_length=1, max_length=100_000)
    base_model_name_or_path: str | None = None
    inference_mode: bool = True
    lora_dropout: float = 0.0
    bias: Literal["none"] = "none"
    fan_in_fan_out: bool = False
    use_rslora: Literal[False] = False
    use_dora: Literal[False] = False
    modules_to_save: None = None
    rank_pattern: dict[str, int] = Field(default_factory=dict, max_length=0)
    alpha_pattern: dict[str, float] = Field(default_factory=dict, max_length=0)
    # Rows of tables over tokens that were trained, by the table's name.
    trainable_token_indices: dict[str, list[int]] | None = Field(None, max_length=2)

    @property
    def scale(self) -> float:
        """The factor of the product of both matrices."""
        return self.lora_alpha / self.r


def adapter_record(folder: Path) -> AdapterRecord | None:
    """What the folder of a fine-tune says of its base; None for any other model folder."""
    if not (folder / MANIFEST_FILE).is_file():
        return None
    return read_manifest(folder).adapter


def linear_names(lm: PreTrainedModel) -> list[str]:
    """The names of a language model's matrices that a LoRA changes: all but the head over words."""
    head = lm.get_output_embeddings()
    return [
        name
        for name, module in lm.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]


def word_tables(lm: PreTrainedModel) -> list[str]:
    """The names of the tables that have a row for each token: the embeddings, and the head where
    its weights are not theirs.
    """
    table, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    tables = [table] if head.weight is table.weight else [table, head]
    return [name for name, module in lm.named_modules() if any(module is one for one in tables)]


def add_lora(lm: nn.Module, settings: LoraSettings) -> dict[str, nn.Parameter]:
    """Put a LoRA, fresh and in float32, into a language model, which is frozen; returns its
    parameters by their names there. Rows of tables begin as they are.

    Raises ConfigError where peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "a LoRA needs peft, which is not installed; run: pip install 'vlv[finetune]'"
        ) from error

    wanted = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        target_modules=settings.target_modules,
        lora_dropout=0.0,
        trainable_token_indices=settings.trainable_token_indices,
    )
    lm.requires_grad_(False)
    inject_adapter_in_model(wanted, lm, adapter_name=_NAME)
    lora = lora_parameters(lm)
    for parameter in lora.values():
        parameter.data = parameter.data.float()
    return lora


def lora_parameters(lm: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the LoRA in a language model, rows of tables among them."""
    return {name: x for name, x in lm.named_parameters() if ".lora_" in name or _ROWS in name}


def trained_rows(lm: nn.Module) -> list[nn.Parameter]:
    """The rows (n,d) that a LoRA trains of each table over tokens."""
    return [x for name, x in lora_parameters(lm).items() if _ROWS in name]


def save_lora(lm: nn.Module, settings: LoraSettings, folder: Path) -> None:
    """Write the LoRA in a language model as peft does."""
    save_weights(
        {_stored_name(name): x.data for name, x in lora_parameters(lm).items()},
        folder / ADAPTER_WEIGHTS,
    )
    write_settings(settings, folder / ADAPTER_SETTINGS)


def save_psi(psi: nn.Module, folder: Path) -> None:
    """Write psi, which a fine-tune trains in full."""
    save_weights(psi.state_dict(), folder / _PSI_FILE)


def apply_adapter(decoder: CaptionDecoder, folder: Path, *, quantized: bool) -> None:
    """Change the caption decoder of the base into that of the fine-tune in `folder`.

    A LoRA is merged in float32; into a quantized language model it is put as it is.
    """
    inspect_adapter(folder)
    settings = read_settings(LoraSettings, folder / ADAPTER_SETTINGS)
    _check_targets(decoder.lm, settings, folder)
    weights, psi = folder / ADAPTER_WEIGHTS, folder / _PSI_FILE
    check_shapes(_lora_shapes(decoder.lm, settings), stored_shapes(weights), weights)
    lora = load_weights(weights)
    _set_rows(decoder.lm, lora, settings)
    if quantized:
        matrices = settings.model_copy(update={"trainable_token_indices": None})
        for name, parameter in add_lora(decoder.lm, matrices).items():
            parameter.data = lora[_stored_name(name)].to(parameter.device)
        decoder.lm.eval()
    else:
        _merge(decoder.lm, lora, settings)
    first: Any = decoder.psi[0]
    fit_weights(decoder.psi, load_weights(psi, first.weight.dtype), psi)


@torch.no_grad()
def _merge(lm: nn.Module, lora: Mapping[str, Tensor], settings: LoraSettings) -> None:
    for name in settings.target_modules:
        module = lm.get_submodule(name)
        a, b = (lora[f"{_PREFIX}{name}.lora_{which}.weight"] for which in "AB")
        change = (b @ a) * settings.scale
        weight: Any = module.weight
        if isinstance(module, Conv1D):  # it keeps its matrix the other way round
            change = change.T
        weight.data = (weight.data.float() + change.to(weight.device)).to(weight.dtype)


@torch.no_grad()
def _set_rows(lm: nn.Module, lora: Mapping[str, Tensor], settings: LoraSettings) -> None:
    """Put trained rows into their tables, which no quantization packs."""
    for name, ids in (settings.trainable_token_indices or {}).items():
        weight: Any = lm.get_submodule(name).weight
        weight.data[ids] = lora[_PREFIX + name + _ROWS].to(weight)


def _check_targets(lm: PreTrainedModel, settings: LoraSettings, folder: Path) -> None:
    unknown = sorted(set(settings.target_modules) - set(linear_names(lm)))
    if unknown:
        raise CheckpointError(
            f"{printable(folder / ADAPTER_SETTINGS)} changes {printable(unknown[0])}, which is no "
            "matrix of this language model; it is an adapter of another one."
        )
    for name, ids in (settings.trainable_token_indices or {}).items():
        rows = len(lm.get_submodule(name).weight) if name in word_tables(lm) else 0
        if not all(0 <= token < rows for token in ids):
            raise CheckpointError(
                f"{printable(folder / ADAPTER_SETTINGS)} changes tokens of {printable(name)} that "
                "this language model does not have; it is an adapter of another one."
            )


def _lora_shapes(lm: nn.Module, settings: LoraSettings) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in settings.target_modules:
        inputs, outputs = _sides(lm.get_submodule(name))
        shapes[f"{_PREFIX}{name}.lora_A.weight"] = (settings.r, inputs)
        shapes[f"{_PREFIX}{name}.lora_B.weight"] = (outputs, settings.r)
    for name, ids in (settings.trainable_token_indices or {}).items():
        weight: Any = lm.get_submodule(name).weight
        shapes[_PREFIX + name + _ROWS] = (len(ids), weight.shape[1])
    return shapes


def _sides(module: Any) -> tuple[int, int]:
    """Inputs and outputs of a matrix; a quantized one has another shape than these."""
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.nf
    return module.in_features, module.out_features


def _stored_name(name: str) -> str:
    """What peft calls a parameter of a LoRA in its file."""
    return _PREFIX + name.replace(f".{_NAME}.", ".").removesuffix(f".{_NAME}")


def check_base(record: AdapterRecord, folder: Path, adapter: Path) -> None:
    """Raise CheckpointError where `folder` holds other weights than those that were fine-tuned."""
    if captioner_hash(folder) != record.base_sha256:
        raise CheckpointError(
            f"{printable(adapter)} is a fine-tune of {printable(record.base)}, whose weights have "
            "changed since then; name the model that it was made from as adapter.base in its "
            f"{MANIFEST_FILE}, or fine-tune again."
        )


def captioner_hash(source: Path) -> str:
    """A hash of the weights that the captions of a model depend on (see `content_hash`). source:
    what `resolve` gives: a model folder, of which a fine-tune counts with its base, or weights in
    the authors' layout.

    Raises CheckpointError where there are no such weights.
    """
    if not (source / MANIFEST_FILE).is_file():
        return content_hash(source if source.is_dir() else source.parent, tensor_files(source))
    files, record = _in_components(source), adapter_record(source)
    # What llama.cpp reads, and what lies beside the components of a fine-tune.
    files += source.glob(f"{PARTS['language_model'].folder}/{GGUF_FILE}")
    if record is not None:
        files += source.glob("*.safetensors")
    if not files:
        raise CheckpointError(
            f"{printable(source)} holds no weights that captions depend on; name a model that "
            "writes captions."
        )
    # `check_base` compares the base with this hash whenever the fine-tune is opened.
    return content_hash(source, files, "" if record is None else record.base_sha256)


def former_captioner_hash(source: Path) -> str:
    """What earlier versions took for the `captioner_hash`: the same, but of a fine-tune, a GGUF
    file or weights in the authors' layout it says less or nothing.
    """
    return content_hash(source, _in_components(source))


def _in_components(folder: Path) -> list[Path]:
    places = {folder / PARTS[name].folder for name in _READ}
    return [path for place in places for path in place.glob("*.safetensors")]
