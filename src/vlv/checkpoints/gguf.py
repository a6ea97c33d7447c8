"""A model folder whose language model is a GGUF file, for llama.cpp.

Everything else of captioning (encoder, text tower, psi, tokenizer) is copied as it is stored. The
layout is that of llama.cpp's own conversion of Qwen2 and Qwen3 (`convert_hf_to_gguf.py`), which no
package ships; the `gguf` package writes the file, and llama.cpp itself compresses it.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from vlv.checkpoints.adapters import adapter_record
from vlv.checkpoints.components import library_config, load_tokenizer
from vlv.checkpoints.manifest import component_folder, new_model_folder, write_manifest
from vlv.checkpoints.parts import CONFIG_FILE, GGUF_FILE, PARTS, TRANSFORMERS_WEIGHTS
from vlv.checkpoints.weights import weight_files
from vlv.errors import CheckpointError, ConfigError
from vlv.models.config import Component
from vlv.models.vlv import VLVModel

Quantize = Literal["f32", "f16", "q8_0", "q4_k_m"]

_COPIED: tuple[Component, ...] = ("encoder", "text_tower", "ood_detector")
# llama.cpp's numbers of file types.
_FILE_TYPES: dict[Quantize, int] = {"f32": 0, "f16": 1, "q8_0": 7, "q4_k_m": 15}
_KINDS = ("qwen2", "qwen3")
# Values that k-quants compress together.
_K_BLOCK = 256


def export_gguf(model: VLVModel, out: Path, quantize: Quantize = "q4_k_m") -> str | None:
    """Write the model folder `out` for captions by llama.cpp; returns a note, if there is one.

    Raises:
        ConfigError: a package is missing, the model is a fine-tune beside its base, its language
            model is neither Qwen2 nor Qwen3, or `out` holds something that is no model.
    """
    gguf = _gguf()
    if model.folder is None or model.opened_from is None:
        raise ConfigError("a GGUF file is written from a model folder; save the model first")
    if adapter_record(model.opened_from) is not None:
        raise ConfigError(
            f"{model.opened_from} is a fine-tune beside another model; write one model of both: "
            f"vlv finetune --merge {model.opened_from} --out OUT"
        )
    if out.resolve() == model.folder.resolve():
        raise ConfigError("the GGUF file needs a model folder of its own; name another OUT")
    model.require("caption_decoder")
    source = component_folder("caption_decoder", model.folder)
    place = Path(PARTS["language_model"].folder).name
    config = library_config(AutoConfig, source / place)
    _check_kind(config, source / place)
    components = [name for name in _COPIED if name in model.manifest.components]
    with new_model_folder(out.absolute()) as building:
        for name in components:
            shutil.copytree(component_folder(name, model.folder), building / name)
        target = building / "caption_decoder"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("model*.safetensors*"))
        file = target / place / GGUF_FILE
        plain = file if quantize in ("f32", "f16") else file.with_suffix(".plain")
        tokenizer = load_tokenizer(AutoTokenizer, source / place)
        # What is compressed is read as it is stored: half the room where that is bfloat16.
        exact = torch.bfloat16 if _is_bfloat16(source / place) else torch.float32
        matrices = {"f32": torch.float32, "f16": torch.float16}.get(quantize, exact)
        _write(gguf, config, tokenizer, source / place, plain, matrices)
        if plain != file:
            compress(plain, file, quantize)
            plain.unlink()
        kept = model.manifest.model_copy(update={"components": [*components, "caption_decoder"]})
        write_manifest(kept, building)
        # transformers opens no such language model. A model without an encoder has no such file.
        (building / CONFIG_FILE).unlink(missing_ok=True)
    if quantize == "q4_k_m" and config.hidden_size % _K_BLOCK:
        return (
            f"rows of {config.hidden_size} values are no multiple of {_K_BLOCK}, as 4 bits of "
            "q4_k_m need; llama.cpp stores such matrices in 5 to 8 bits"
        )
    return None


def compress(source: Path, target: Path, quantize: Quantize) -> None:
    """Write a GGUF file of float32 in fewer bits.

    Raises ConfigError where llama-cpp-python is not installed, CheckpointError where it fails.
    """
    library = llama_cpp()
    settings = library.llama_model_quantize_default_params()
    settings.ftype = _FILE_TYPES[quantize]
    settings.nthread = torch.get_num_threads()
    status = library.llama_model_quantize(str(source).encode(), str(target).encode(), settings)
    if status:
        raise CheckpointError(f"llama.cpp cannot write {target} as {quantize} (status {status}).")


def llama_cpp() -> Any:
    """llama-cpp-python, which then says nothing on standard error.

    Raises ConfigError where it is not installed.
    """
    try:
        import llama_cpp as library
    except ImportError as error:
        raise ConfigError(
            f"llama.cpp needs {error.name}, which is not installed; run: "
            "pip install 'vlv[llama-cpp]'"
        ) from error
    library.llama_log_set(_quiet(library), None)
    library.llama_backend_init()
    return library


_quiet_callback: Any = None


def _quiet(library: Any) -> Any:
    """A callback that llama.cpp may call for as long as the program runs."""
    global _quiet_callback
    if _quiet_callback is None:
        _quiet_callback = library.llama_log_callback(lambda level, text, data: None)
    return _quiet_callback


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            f"a GGUF file needs {error.name}, which is not installed; run: "
            "pip install 'vlv[llama-cpp]'"
        ) from error
    return gguf


def _check_kind(config: Any, folder: Path) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    for fault, wrong in (
        (
            f"is a {config.model_type}, where this writes {' and '.join(_KINDS)}",
            config.model_type not in _KINDS,
        ),
        ("attends through a sliding window", bool(getattr(config, "use_sliding_window", False))),
        (
            f"stretches its positions ({rope.get('rope_type')})",
            rope.get("rope_type", "default") != "default",
        ),
    ):
        if wrong:
            raise ConfigError(
                f"the language model in {folder} {fault}; convert it with llama.cpp's "
                "convert_hf_to_gguf.py"
            )


def _write(
    gguf: Any,
    config: Any,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    target: Path,
    matrices: torch.dtype,
) -> None:
    """A GGUF file with matrices of that dtype; one tensor is in memory at a time."""
    writer = gguf.GGUFWriter(target, config.model_type)
    writer.add_name("VLV caption decoder")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if (width := getattr(config, "head_dim", None)) is not None:
        writer.add_key_length(width)
        writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_file_type({torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}[matrices])
    _add_tokenizer(gguf, writer, tokenizer, config.vocab_size)
    kind = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)

    for name, shape in _tensors(folder):
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise CheckpointError(f"{folder} holds the tensor {name!r}, which llama.cpp lacks.")
        dtype = _stored_as(shape, matrices)
        raw = gguf.GGMLQuantizationType.BF16 if dtype == torch.bfloat16 else None
        example = _numbers(torch.empty(0, dtype=dtype))
        size = torch.Size(shape).numel() * dtype.itemsize
        writer.add_tensor_info(new, shape, example.dtype, size, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for file in weight_files(folder / TRANSFORMERS_WEIGHTS):
        with safe_open(file, framework="pt") as stored:
            for name in _names(stored):
                tensor = stored.get_tensor(name)
                dtype = _stored_as(tuple(tensor.shape), matrices)
                writer.write_tensor_data(_numbers(tensor.to(dtype)))
    writer.close()


def _stored_as(shape: tuple[int, ...], matrices: torch.dtype) -> torch.dtype:
    """As llama.cpp's own conversion does: norms and biases are float32."""
    return matrices if len(shape) > 1 else torch.float32


def _numbers(tensor: Tensor) -> NDArray[Any]:
    """The array that is written; numpy has no bfloat16, but its bytes."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    numbers: NDArray[Any] = tensor.numpy()
    return numbers


def _is_bfloat16(folder: Path) -> bool:
    file = weight_files(folder / TRANSFORMERS_WEIGHTS)[0]
    with safe_open(file, framework="pt") as stored:
        kinds = {stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118
    return kinds == {"BF16"}


def _tensors(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order in which the tensors are written."""
    for file in weight_files(folder / TRANSFORMERS_WEIGHTS):
        with safe_open(file, framework="pt") as stored:
            for name in _names(stored):
                yield name, tuple(stored.get_slice(name).get_shape())


def _names(stored: Any) -> list[str]:
    return sorted(stored.keys())


def _add_tokenizer(
    gguf: Any, writer: Any, tokenizer: PreTrainedTokenizerFast, vocabulary: int
) -> None:
    """Tokens, merges and ends. A published Qwen2 has more embeddings than tokens."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    added = tokenizer.added_tokens_decoder
    by_id = {id: token for token, id in tokenizer.get_vocab().items()}
    tokens, types = [], []
    for id in range(vocabulary):
        token = by_id.get(id)
        special = id in added and added[id].special
        kind = gguf.TokenType.CONTROL if special else gguf.TokenType.NORMAL
        if token is None:
            kind = gguf.TokenType.UNUSED
        elif id in added and not special:
            kind = gguf.TokenType.USER_DEFINED
        tokens.append(f"[PAD{id}]" if token is None else token)
        types.append(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    # llama.cpp reads no file without merges; these two are no bytes of any text.
    writer.add_token_merges(merges or ["\ue000 \ue001"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
