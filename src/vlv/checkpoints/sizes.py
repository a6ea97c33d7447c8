"""How many values a model folder holds, by the headers of its weight files.

Knows names and places only, and loads no torch, so that commands can tell it at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError, safe_open

from vlv.errors import CheckpointError

if TYPE_CHECKING:
    from vlv.checkpoints.layout import Place
    from vlv.models.vlv import VLV

BoxName = Literal["encoder", "text_tower", "decoder", "caption_decoder"]
Quantization = Literal["8bit", "4bit"]

PLACES: "dict[BoxName, tuple[Place, ...]]" = {
    "encoder": ("encoder", "head"),
    "text_tower": ("text_tower",),
    "decoder": ("vae", "unet"),
    "caption_decoder": ("psi", "language_model"),
}
CAPTIONING: tuple[BoxName, ...] = ("encoder", "text_tower", "caption_decoder")
DRAWING: tuple[BoxName, ...] = ("encoder", "text_tower", "decoder")
# Where the weights of a place lie; the encoder's folder holds what VLV adds to it as well.
_FOLDERS: "dict[Place, str]" = {
    "encoder": "encoder",
    "text_tower": "text_tower",
    "vae": "vae",
    "unet": "unet",
    "psi": "caption_decoder",
    "language_model": "caption_decoder/language_model",
}

# Names, shapes and places of the tensors of a file; those of the largest published models have a
# tenth of that.
_HEADER_BYTES = 16_000_000

# Tables of token embeddings and heads over words, which bitsandbytes leaves as they are.
_UNQUANTIZED = ("embed", "lm_head", "wte", "wpe")
# bitsandbytes: a scale in float32 for each output of an 8-bit layer; for 4 bits a byte for each
# block of 64 values, and those bytes again have a scale for each 256 of them.
_ROW_SCALE = 4
_BLOCK, _BLOCKS_OF_A_SCALE = 64, 256


@dataclass(frozen=True)
class Sizes:
    """How many values the tensors of one place hold; `linear` and `rows` are those of the weight
    matrices that quantization compresses, and of their outputs.
    """

    values: int = 0
    linear: int = 0
    rows: int = 0

    def bytes(self, itemsize: int, quantization: Quantization | None = None) -> int:
        """What they take in memory with values of `itemsize` bytes."""
        if quantization is None:
            return self.values * itemsize
        rest = (self.values - self.linear) * itemsize
        if quantization == "8bit":
            return rest + self.linear + self.rows * _ROW_SCALE
        blocks = self.linear // _BLOCK
        return rest + self.linear // 2 + blocks + blocks // _BLOCKS_OF_A_SCALE * 4


def folder_sizes(folder: Path) -> "dict[Place, Sizes]":
    """Sizes of what a model folder holds, by the headers of its files.

    Raises CheckpointError for a damaged file.
    """
    return {
        place: _sizes(shape for file in files for shape in tensor_shapes(file))
        for place, name in _FOLDERS.items()
        # A folder may lack what it does not need.
        if (files := sorted((folder / name).glob("*.safetensors")))
    }


def model_sizes(model: "VLV") -> "dict[Place, Sizes]":
    """Sizes of the boxes that a model holds, which may be without weights."""
    from vlv.checkpoints.layout import stored_tensors

    return {
        place: _sizes((name, tuple(tensor.shape)) for name, tensor in tensors.items())
        for place, tensors in stored_tensors(model).items()
    }


def weight_bytes(
    sizes: "Mapping[Place, Sizes]",
    boxes: Iterable[BoxName],
    itemsize: int,
    quantization: Quantization | None = None,
) -> dict[BoxName, int]:
    """Bytes of the parameters of the boxes that there are, of `itemsize` bytes a value;
    quantization is the language model's.
    """
    return {
        box: sum(
            sizes[place].bytes(itemsize, quantization if place == "language_model" else None)
            for place in PLACES[box]
            if place in sizes
        )
        for box in boxes
        if any(place in sizes for place in PLACES[box])
    }


def _sizes(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> Sizes:
    values = linear = rows = 0
    for name, shape in shapes:
        values += prod(shape)
        if len(shape) == 2 and not any(word in name for word in _UNQUANTIZED):
            linear += prod(shape)
            rows += shape[0]
    return Sizes(values, linear, rows)


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
    """Names and shapes of a file's tensors, by its header alone."""
    try:
        with safe_open(file, framework="np") as stored:
            return [
                (name, tuple(stored.get_slice(name).get_shape()))
                for name in stored.keys()  # noqa: SIM118  (no mapping)
            ]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The weights file {file} is damaged: {error}") from error
