"""Files of tensors: written as safetensors, in shards where they are large, and read by name.

Knows files only; no network. What others wrote as PyTorch files can be read too (`TensorFiles`),
by PyTorch's restricted unpickler and mapped into memory, so that nothing in them runs.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from zipfile import is_zipfile

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlv.checkpoints.headers import WEIGHT_PATTERNS, check_header, tensor_shapes
from vlv.errors import CheckpointError
from vlv.files import usual_mode
from vlv.text import read_object

MAX_SHARD_BYTES = 4_000_000_000
INDEX_SUFFIX = ".index.json"
# Under which key training scripts put the weights, where they save more than those.
_WRAPPERS = ("model_state_dict", "state_dict", "module")
_sizes_only: ContextVar[bool] = ContextVar("sizes_only", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, `load_weights` reads headers only: its tensors are of the meta device, which has
    sizes and no contents. For counting what a model needs without the memory that it needs.
    """
    before = _sizes_only.set(True)
    try:
        yield
    finally:
        _sizes_only.reset(before)


def default_device() -> torch.device:
    """Where a model is opened that no device is named for."""
    return torch.device("meta" if _sizes_only.get() else "cpu")


def save_weights(
    state: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors to a safetensors file, floating ones as dtype (None: as they are).

    More than max_shard_bytes become several files and an index, named as the libraries do.
    """
    sizes = {name: stored_bytes(tensor, dtype) for name, tensor in state.items()}

    def read(names: Iterable[str]) -> dict[str, Tensor]:
        return {name: state[name].detach().cpu() for name in names}

    write_weights(sizes, read, path, dtype, max_shard_bytes)


def write_weights(
    sizes: Mapping[str, int],
    read: Callable[[Iterable[str]], Mapping[str, Tensor]],
    path: Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """`save_weights` of tensors that are not in memory: `read` gives those of one shard at a time.

    sizes: the bytes that each will take in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    split = split_state_dict_into_shards_factory(
        dict(sizes),
        get_storage_size=lambda size: size,
        filename_pattern=f"{path.stem}{{suffix}}{path.suffix}",
        max_shard_size=max_shard_bytes,
    )
    for file_name, names in split.filename_to_tensors.items():
        tensors = {name: _storable(tensor, dtype) for name, tensor in read(names).items()}
        file = path.parent / file_name
        with usual_mode(file):
            save_file(tensors, file, metadata={"format": "pt"})
        del tensors  # before the next shard is read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True)
        _index_path(path).write_text(text + "\n", encoding="utf-8")


def load_weights(path: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Read a safetensors file, or its shards if it was split; floating tensors as dtype.

    Raises CheckpointError for a file that is missing or damaged.
    """
    if _sizes_only.get():
        shapes = stored_shapes(path)
        return {k: torch.empty(v, dtype=dtype, device="meta") for k, v in shapes.items()}
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            stored = load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"The weights file {file} is damaged: {error}") from error
        for name, tensor in stored.items():
            tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return tensors


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file or of its shards, from their headers."""
    return {name: shape for file in weight_files(path) for name, shape in tensor_shapes(file)}


def require_shapes(path: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError for a file that holds a tensor in another shape than settings say."""
    stored = stored_shapes(path)
    for name, shape in wanted.items():
        if name in stored and stored[name] != shape:
            raise CheckpointError(
                f"{path} holds the tensor {name!r} with shape {stored[name]}, where the settings "
                f"beside it say {shape}."
            )


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights of `path`: itself, or the shards that its index names."""
    if path.is_file():
        return [path]
    if _index_path(path).is_file():
        return _shards(_index_path(path))
    raise CheckpointError(f"The weights file {path} is missing.")


def stored_bytes(tensor: Tensor, dtype: torch.dtype | None) -> int:
    """The bytes that a tensor takes in a file, floating ones as dtype (None: as they are)."""
    kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return tensor.numel() * kind.itemsize


class TensorFiles:
    """The tensors of one or several weight files of unknown origin, by name.

    source: a file (.safetensors, .pt, .pth, .bin), an index of shards, or a folder that holds
    either; safetensors are preferred where there are both.

    `tensors` holds shapes and dtypes only (on the meta device).

    Raises CheckpointError for a file that is missing, damaged, or holds more than tensors.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.files = tensor_files(source)
        self.tensors: dict[str, Tensor] = {}
        self._file_of: dict[str, Path] = {}
        for file in self.files:
            for name, tensor in _mapped(file).items():
                if name in self._file_of:
                    raise CheckpointError(
                        f"The tensor {name!r} is both in {self._file_of[name]} and in {file}."
                    )
                self.tensors[name] = tensor.to("meta")
                self._file_of[name] = file

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Copies of the named tensors; one file is open at a time, and none afterwards."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self._file_of[name], []).append(name)
        found: dict[str, Tensor] = {}
        for file, wanted in by_file.items():
            mapped = _mapped(file, wanted)
            found.update((name, mapped[name].clone()) for name in wanted)
            del mapped  # before the next file is opened
        return found


def tensor_files(source: Path) -> list[Path]:
    """The files of `TensorFiles`, none of which is read. Raises CheckpointError as it does."""
    if source.name.endswith(INDEX_SUFFIX) and source.is_file():
        return _shards(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise CheckpointError(f"There is no file or folder of weights {source}.")
    for pattern in WEIGHT_PATTERNS:
        indices = sorted(source.glob(pattern + INDEX_SUFFIX))
        found = indices or sorted(source.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise CheckpointError(f"{source} holds several sets of weights ({names}); name one.")
        if found and not found[0].is_file():  # opening a pipe would wait for ever
            raise CheckpointError(f"{found[0]} is not a file.")
        if found:
            return _shards(found[0]) if indices else found
    raise CheckpointError(f"{source} holds no weights ({', '.join(WEIGHT_PATTERNS)}).")


def _shards(index: Path) -> list[Path]:
    """The files that an index names, which have to lie beside it."""
    files = read_object(index, CheckpointError).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise CheckpointError(f"The index of weights {index} has no weight_map of file names.")
    names = sorted(set(files.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names the file {name!r}, which is not beside it.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"The weights file {index.parent / name} is missing.")
    return [index.parent / name for name in names]


def _mapped(file: Path, names: list[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a file (None: all), mapped into memory for as long as they are held."""
    if file.suffix != ".safetensors":
        return _unpickled(file)
    check_header(file)
    try:
        with safe_open(file, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in names or stored.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The weights file {file} is damaged: {error}") from error


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        # Files of before PyTorch 1.6 are no archives and cannot be mapped.
        stored = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # whatever the restricted unpickler trips over in a hostile file
        raise CheckpointError(
            f"{file} was refused: it is damaged or holds more than tensors "
            f"({type(error).__name__}). Nothing in it was run; ask for safetensors."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(stored, dict) and isinstance(stored.get(wrapper), dict):
            stored = stored[wrapper]
    if not isinstance(stored, dict):
        raise CheckpointError(f"{file} holds no named tensors but a {type(stored).__name__}.")
    for name, value in stored.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{file} holds {name!r}, a {type(value).__name__}, among its tensors."
            )
        if not _is_whole(value):
            raise CheckpointError(f"{file} holds the tensor {name!r} without all of its values.")
    return stored


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor's values are in the file: one may claim terabytes and repeat a byte."""
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return dense and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()


def _storable(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    # A view would be written with all of what it looks into, and shared memory is refused.
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
    return tensor.contiguous() if whole else tensor.contiguous().clone()


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + INDEX_SUFFIX)
