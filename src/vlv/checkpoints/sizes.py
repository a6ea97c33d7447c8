"""How many values a model folder holds, by the headers of its weight files.

Knows names and places only, and loads no torch, so that commands print it at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.checkpoints.headers import tensor_shapes
from vlv.checkpoints.parts import PARTS, Part, PartName, Quantization, parts_of
from vlv.models.config import BoxName

if TYPE_CHECKING:
    from vlv.models.vlv import VLVModel

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
        if quantization in ("8bit", "int8"):
            return rest + self.linear + self.rows * _ROW_SCALE
        blocks = self.linear // _BLOCK
        return rest + self.linear // 2 + blocks + blocks // _BLOCKS_OF_A_SCALE * 4


def folder_sizes(folder: Path) -> dict[PartName, Sizes]:
    """Sizes of what a model folder holds, by the headers of its files.

    Raises CheckpointError for a damaged file.
    """
    return {
        name: _sizes(shape for file in files for shape in tensor_shapes(file))
        for name, part in PARTS.items()
        # A folder may lack what it does not need.
        if (files := _files(folder, part))
    }


def _files(folder: Path, part: Part) -> list[Path]:
    """The weight files of a part, whatever their names. Beside Florence-2 lies what VLV adds to it,
    which is known by its name.
    """
    found = sorted((folder / part.folder).glob("*.safetensors"))
    if part.folder != PARTS["head"].folder:
        return found
    own = Path(PARTS["head"].file).stem
    return [file for file in found if file.name.startswith(own) == (part == PARTS["head"])]


def model_sizes(model: "VLVModel") -> dict[PartName, Sizes]:
    """Sizes of the boxes that a model holds, which may be without weights."""
    from vlv.checkpoints.boxes import stored_tensors

    return {
        part: _sizes((name, tuple(tensor.shape)) for name, tensor in tensors.items())
        for part, tensors in stored_tensors(model).items()
    }


def weight_bytes(
    sizes: Mapping[PartName, Sizes],
    boxes: Iterable[BoxName],
    itemsize: int,
    quantization: Quantization | None = None,
) -> dict[BoxName, int]:
    """Bytes of the parameters of the boxes that there are, of `itemsize` bytes a value;
    quantization is the language model's.
    """
    return {
        box: sum(
            sizes[part].bytes(itemsize, quantization if part == "language_model" else None)
            for part in parts_of(box)
            if part in sizes
        )
        for box in boxes
        if any(part in sizes for part in parts_of(box))
    }


def _sizes(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> Sizes:
    values = linear = rows = 0
    for name, shape in shapes:
        values += prod(shape)
        if len(shape) == 2 and not any(word in name for word in _UNQUANTIZED):
            linear += prod(shape)
            rows += shape[0]
    return Sizes(values, linear, rows)
