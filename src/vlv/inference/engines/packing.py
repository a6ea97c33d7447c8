"""Weights in the order in which a CPU's matrix products read them, while captions are written.

A token step multiplies a few rows with every weight of the language model, and is limited by how
fast those are read. oneDNN, which PyTorch brings along, reads weights faster that it has reordered
once (docs/engines.md). Their values stay the same.

Shapes: I and O the widths of inputs and outputs.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlv.models.precision import gains_from_packing

# Rows that the order is chosen for.
_ROWS = 16
# Values of the smallest weight that is worth it: smaller ones stay in the processor's caches.
_LEAST = 2**19


class PackedWeights:
    """Holds the large linear layers of a language model packed until `restore`, for inference.

    A packed weight takes the place of the plain one, and memory is not needed twice, but for a head
    that shares its weight with the embeddings. On devices and in dtypes that do not gain from it,
    nothing is packed.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        self._packed: list[tuple[nn.Module, str, _PackedLinear]] = []
        if not gains_from_packing(lm.device, lm.dtype):
            return
        embeddings = lm.get_input_embeddings().weight
        for parent in list(lm.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and child.weight.numel() >= _LEAST:
                    packed = _PackedLinear(child, keep=child.weight is embeddings)
                    setattr(parent, name, packed)
                    self._packed.append((parent, name, packed))

    def restore(self) -> None:
        """Put the plain layers back, with the parameters that they had."""
        for parent, name, packed in self._packed:
            setattr(parent, name, packed.unpacked())
        self._packed = []


class _PackedLinear(nn.Module):
    """`nn.Linear` whose weight (O,I) is in oneDNN's order; keep: it is in its own order too."""

    def __init__(self, linear: nn.Linear, keep: bool) -> None:
        super().__init__()
        # In a tuple: with its weight emptied, it is no part of the network.
        self._linear = (linear,)
        self._keep = keep
        weight = linear.weight.detach()
        # Neither a parameter nor a buffer: it cannot be converted or saved.
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        if not keep:
            linear.weight.data = weight.new_empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """(...,O) of inputs (...,I), in the same dtype."""
        bias = self._linear[0].bias
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")
        return y

    def unpacked(self) -> nn.Linear:
        """The plain layer, with its weight."""
        linear = self._linear[0]
        if not self._keep:
            linear.weight.data = self._packed.to_dense()
        return linear
