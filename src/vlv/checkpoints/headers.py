"""Which files hold weights, and what their headers say. Loads no torch and reads no tensor."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from vlv.errors import CheckpointError

# What a folder of weights may hold, the safer format first.
WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
# Names, shapes and places of the tensors of a file; the largest published models have a tenth of
# that.
_HEADER_BYTES = 16_000_000


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds files that may be weights."""
    return any(any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS)


def check_header(file: Path) -> None:
    """Raise CheckpointError for a weights file whose header is damaged or says what is not so."""
    size = file.stat().st_size
    with file.open("rb") as stored:
        length = int.from_bytes(stored.read(8), "little")
    if size < 8 or length > min(size - 8, _HEADER_BYTES):
        raise CheckpointError(
            f"The weights file {file} is damaged: it has {size} bytes, and its header says that it "
            f"has {length} itself."
        )
    tensor_shapes(file)


def tensor_shapes(file: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a file's tensors, from its header."""
    try:
        with safe_open(file, framework="np") as stored:
            return [
                (name, tuple(stored.get_slice(name).get_shape()))
                for name in stored.keys()  # noqa: SIM118  (no mapping)
            ]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The weights file {file} is damaged: {error}") from error
