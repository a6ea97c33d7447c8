"""Linear layers in 8 bits for CPUs: int8 products in place of products of bfloat16.

Each row of a weight matrix has a scale of its own, and so has each row of the inputs, so that an
output does not depend on the rows beside it in a batch. The products are oneDNN's, which PyTorch
brings along; bitsandbytes and torchao have no fast ones for CPUs (docs/engines.md).

Shapes: n rows of inputs, I and O the widths of inputs and outputs.
"""

import torch
from torch import Tensor, nn

# Inputs are stored as unsigned bytes, with this for zero.
_ZERO = 128
_LARGEST = 127


class Int8Linear(nn.Module):
    """`nn.Linear` with int8 weights, and inputs that become 8-bit numbers row by row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (weight / scales.unsqueeze(1)).round().to(torch.int8)
        # Neither parameters nor buffers: what is packed cannot be converted or saved.
        self._packed: Tensor = torch.ops.onednn.qlinear_prepack(rounded, [1, self.in_features])
        self._scales = scales
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(...,O) of inputs (...,I), in their dtype."""
        rows = x.reshape(-1, self.in_features).float()  # (n,I)
        largest = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        quantized = (rows * (_LARGEST / largest)).round().add(_ZERO).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            quantized,
            1 / _LARGEST,
            _ZERO,
            self._packed,
            self._scales,
            self._zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        y = (y * largest).to(x.dtype)
        if self._bias is not None:
            y = y + self._bias
        return y.reshape(*x.shape[:-1], self.out_features)


def use_int8(network: nn.Module, keep: nn.Module) -> None:
    """Replace the linear layers of a network, but for `keep`, one by one."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not keep:
                setattr(parent, name, Int8Linear(child))
