"""Reading and writing one component of a model folder, strictly. Knows no box of VLV.

A component is a library's network: its config in the library's file, its weights in safetensors
files. A tensor that is unknown, missing or misshapen is an error that names it.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import init_empty_weights
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from vlv.checkpoints.headers import tensor_shapes
from vlv.checkpoints.inspection import read_config
from vlv.checkpoints.parts import DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS
from vlv.checkpoints.weights import load_weights, save_weights, stored_shapes
from vlv.errors import CheckpointError
from vlv.text import first_fault, printable

if TYPE_CHECKING:
    from diffusers import ModelMixin

# Captioning needs nothing of diffusers, whose import takes seconds.
NetworkT = TypeVar("NetworkT", PreTrainedModel, "ModelMixin")
TokenizerT = TypeVar("TokenizerT", bound=PreTrainedTokenizerFast)
SettingsT = TypeVar("SettingsT", bound=BaseModel)

# What a network may compute for itself: positions, masks, frequencies.
_BUFFER_BYTES = 300_000_000
# Tensors of a published Florence-2 that VLV has no use for: its head over words.
_UNUSED = frozenset({"lm_head.weight", "final_logits_bias"})
# Older repositories hold the vocabulary and merges from which the first is made.
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def save_network(
    network: "PreTrainedModel | ModelMixin", folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write config and weights so that the network's own library can read them.

    dtype is that of the stored weights; None keeps the network's.
    """
    save_config(network, folder, dtype or network.dtype)
    state = untied_state(network)
    save_weights(state, folder / weights_name(type(network)), dtype)


def save_config(network: "PreTrainedModel | ModelMixin", folder: Path, dtype: torch.dtype) -> None:
    """Write only a network's config; dtype is that of the weights that will lie beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(network, PreTrainedModel):
        config = type(network.config).from_dict(network.config.to_dict())
        config.dtype = dtype
        config.architectures = [type(network).__name__]
        config.save_pretrained(folder)
    else:
        network.save_config(folder)


def untied_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that are stored of a network: each once, under its first name."""
    tied = tied_names(network)
    return {name: value for name, value in network.state_dict().items() if name not in tied}


def load_network(
    kind: type[NetworkT], folder: Path, dtype: torch.dtype = torch.float32
) -> NetworkT:
    """Build a network from its folder, with weights of the given dtype, in eval mode.

    Raises CheckpointError for a missing or damaged file and for any tensor that does not fit.
    """
    planned = check_buffers(kind, folder)
    path = folder / weights_name(kind)
    elsewhere = frozenset(tied_names(planned))
    # By the headers first: what does not fit is neither built nor read.
    check_shapes(_shapes(planned, elsewhere), stored_shapes(path), path)
    network = build_empty(kind, folder)
    fit_weights(network, load_weights(path, dtype), path, elsewhere)
    if isinstance(network, PreTrainedModel):
        network.tie_weights()
    # Not cast as a whole: buffers that no file stores, such as rotary frequencies, stay float32.
    return network.eval()


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tokenizer as it was made, without the padding and truncation of its last call."""
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)


def load_tokenizer(kind: type[TokenizerT], folder: Path) -> TokenizerT:
    """Read a tokenizer of the given class from a component's folder."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise CheckpointError(f"The tokenizer file {folder / _TOKENIZER_FILES[0]} is missing.")
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise CheckpointError(
            f"The tokenizer in {folder} cannot be read: {brief(error)}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(
            f"The tokenizer in {folder} is a {type(tokenizer).__name__}, where one of the "
            "tokenizers library is needed."
        )
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"The tokenizer in {folder} has no end token.")
    for how_it_was_read in ("is_local", "local_files_only", "trust_remote_code"):
        tokenizer.init_kwargs.pop(how_it_was_read, None)
    return tokenizer


def fit_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    elsewhere: frozenset[str] = frozenset(),
) -> None:
    """Put tensors into a module; names in `elsewhere` are not expected, as another file or
    another name holds them.

    Raises CheckpointError that names the first unknown, missing or misshapen tensor and the file.
    """
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    check_shapes(_shapes(module, elsewhere), shapes, path)
    module.load_state_dict(dict(state), strict=not elsewhere, assign=True)


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Raise CheckpointError that names the first unknown, missing or misshapen tensor of a file."""
    unknown = sorted(set(stored) - set(expected))
    missing = sorted(set(expected) - set(stored))
    if missing:
        also = f" (and it holds the unknown tensor {unknown[0]!r})" if unknown else ""
        raise CheckpointError(f"{path} lacks the tensor {missing[0]!r}{also}{_more(missing)}.")
    if unknown:
        raise CheckpointError(f"{path} holds the unknown tensor {unknown[0]!r}{_more(unknown)}.")
    for name, shape in expected.items():
        if shape != stored[name]:
            raise CheckpointError(
                f"{path} holds the tensor {name!r} with shape {stored[name]}, "
                f"where the model needs {shape}."
            )


def _shapes(module: nn.Module, elsewhere: frozenset[str]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.shape)
        for name, value in module.state_dict().items()
        if name not in elsewhere
    }


def write_settings(settings: BaseModel, path: Path) -> None:
    """Write a settings object as JSON that a person can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_settings(kind: type[SettingsT], path: Path) -> SettingsT:
    """Read what `write_settings` wrote; unknown and wrong fields are errors that name them."""
    data = read_config(path)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        fault = first_fault(error, "its top level")
        raise CheckpointError(f"{path} is wrong at {fault}.") from error


def check_buffers(kind: type[NetworkT], folder: Path) -> NetworkT:
    """The network of a folder's config with nothing that takes memory.

    Raises CheckpointError for one that would compute more than `_BUFFER_BYTES` that no file holds.
    """
    with torch.device("meta"):
        network = build_empty(kind, folder)
    stored = network.state_dict().keys()
    size = sum(
        buffer.numel() * buffer.itemsize
        for name, buffer in network.named_buffers()
        if name not in stored
    )
    if size > _BUFFER_BYTES:
        raise CheckpointError(
            f"The config in {folder} cannot be used: its network has {size:,} bytes of tables "
            "beside its weights."
        )
    return network


def build_empty(kind: type[NetworkT], folder: Path) -> NetworkT:
    """The network of a folder's config with parameters that hold no memory yet; its buffers are
    real, since those that no file stores are computed here.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"The file {folder / 'config.json'} is missing.")
    _check_kind(kind, folder)
    try:
        if issubclass(kind, PreTrainedModel):
            config = kind.config_class.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            config.dtype = None
            # Weights come from a file: drawing them takes most of the time of building.
            with init_empty_weights(include_buffers=False), no_init_weights():
                network = kind(config)
            for module in network.modules():
                module._is_hf_initialized = True  # as if drawn: no one draws them later either
            network.tie_weights()
            return network
        arguments = kind.load_config(folder, local_files_only=True)
        with init_empty_weights(include_buffers=False), no_init_weights():
            return kind.from_config(arguments)
    except Exception as error:  # whatever a library trips over in a config of unknown origin
        raise unusable(folder, error) from error


def _check_kind(kind: Any, folder: Path) -> None:
    """Raise CheckpointError for a config of another network, which the libraries would only warn
    of.
    """
    config = read_config(folder / "config.json")
    if issubclass(kind, PreTrainedModel):
        key, wanted = "model_type", str(kind.config_class.model_type)
    else:
        key, wanted = "_class_name", kind.__name__
    found = config.get(key, wanted)
    # The config of a whole CLIP has that of its text model inside.
    if found != wanted and not wanted.startswith(f"{found}_"):
        raise CheckpointError(
            f"The config in {folder} is of a {printable(str(found)[:80])}, where a {wanted} is "
            "needed."
        )


def library_config(kind: Any, folder: Path) -> Any:
    """The config of a library's network in `folder`, of that kind; what is wrong is named."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"The file {folder / 'config.json'} is missing.")
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a library trips over in a config of unknown origin
        raise unusable(folder, error) from error


def unusable(folder: Path, error: Exception) -> CheckpointError:
    """What to raise where a library cannot use the config of a folder."""
    return CheckpointError(f"The config in {folder} cannot be used: {brief(error)}")


def brief(error: Exception) -> str:
    """What a library says of a failure, as part of one line."""
    message = " ".join(str(error).split()) or type(error).__name__
    return printable(message if len(message) <= 300 else message[:300] + "…")


def weights_name(kind: type[nn.Module]) -> str:
    """What the library calls the file of a network's weights."""
    return TRANSFORMERS_WEIGHTS if issubclass(kind, PreTrainedModel) else DIFFUSERS_WEIGHTS


def tied_names(network: nn.Module) -> dict[str, str]:
    """Second names of tensors, as the library declares them, and the names they are stored by."""
    if isinstance(network, PreTrainedModel):
        return dict(network.all_tied_weights_keys)
    return {}


def _more(names: list[str]) -> str:
    return f", with {len(names) - 1} more" if len(names) > 1 else ""


def load_published(
    kind: "type[PreTrainedModel] | type[ModelMixin]",
    folder: Path,
    dtype: torch.dtype,
    **options: Any,
) -> Any:
    """A network with published weights, by its library's own loader, in eval mode; `options` are
    the loader's.

    The loaders only warn of tensors that do not fit; here they are errors that name the tensor.
    """
    if not folder.is_dir():
        raise CheckpointError(f"The folder {folder} is missing.")
    loader: Any = kind
    _check_stored(check_buffers(loader, folder), folder)
    if issubclass(kind, PreTrainedModel):
        options["trust_remote_code"] = False
    try:
        network, report = loader.from_pretrained(
            folder,
            torch_dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with their names
            **options,
        )
    except Exception as error:  # whatever a library trips over in files of unknown origin
        raise CheckpointError(
            f"The {kind.__name__} in {folder} cannot be read: {brief(error)}"
        ) from error
    for fault, names in (
        ("lacks", report["missing_keys"]),
        ("misshapes", [name for name, *_ in report["mismatched_keys"]]),
        ("has the unknown", set(report["unexpected_keys"]) - _UNUSED),
    ):
        if names:
            raise CheckpointError(f"{folder} {fault} tensor {min(names)!r} of {kind.__name__}.")
    return network.eval()


def _check_stored(network: nn.Module, folder: Path) -> None:
    """Raise CheckpointError where a config announces more values than the folder's files hold."""
    tied = tied_names(network)
    # Of diffusers' networks also tables that are computed, such as positions: these are stored.
    is_transformers = isinstance(network, PreTrainedModel)
    held = dict(network.named_parameters()) if is_transformers else network.state_dict()
    announced = sum(x.numel() for name, x in held.items() if name not in tied)
    stored = sum(
        prod(shape) for file in folder.glob("*.safetensors") for _, shape in tensor_shapes(file)
    )
    if announced > stored:
        raise CheckpointError(
            f"{folder} lacks weights: its config is of {announced:,} values, and its files hold "
            f"{stored:,}."
        )
