"""The node that opens a model, and what flows between nodes beside images and texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from vlv.inference.loading import DTYPES
from vlv.models.config import NUM_INFERENCE_STEPS, SCHEDULER, SCHEDULERS
from vlv.pipeline import VLV

CATEGORY = "VLV"
Model = io.Custom("VLV_MODEL")
Embeddings = io.Custom("VLV_EMBEDDINGS")
"""Caption embeddings z (B,Q,d)."""
_AUTO = "auto"


class LoadModel(io.ComfyNode):
    """Opens a model folder, the model of the package, or an id on the Hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="VLVLoadModel",
            display_name="VLV load model",
            category=CATEGORY,
            inputs=[
                io.String.Input("model", default="vlv-mini", tooltip="A folder or an id."),
                io.Combo.Input("device", options=[_AUTO, "cuda", "mps", "cpu"], default=_AUTO),
                io.Combo.Input("dtype", options=[_AUTO, *DTYPES], default=_AUTO),
            ],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: str, device: str = _AUTO, dtype: str = _AUTO) -> io.NodeOutput:
        """Open it; weights load when a node first needs them."""
        opened = VLV.from_pretrained(
            model,
            device=None if device == _AUTO else device,
            dtype=None if dtype == _AUTO else dtype,
        )
        return io.NodeOutput(opened)


def pictures_of(images: Tensor) -> list[Image.Image]:
    """ComfyUI's images (B,H,W,C), from 0 to 1, as pictures."""
    pixels = (images.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return [Image.fromarray(one) for one in pixels]


def images_of(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as ComfyUI's images (B,H,W,3), from 0 to 1."""
    pixels = np.stack([np.asarray(one.convert("RGB"), np.float32) for one in pictures])
    return torch.from_numpy(pixels / 255)


def drawing_inputs() -> list[Any]:
    """The inputs of nodes that draw."""
    return [
        io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=True),
        io.Int.Input("steps", default=NUM_INFERENCE_STEPS, min=1, max=1000),
        io.Float.Input("guidance_scale", default=2.0, min=1.0, max=20.0, step=0.1),
        io.Combo.Input("scheduler", options=list(SCHEDULERS), default=SCHEDULER),
    ]
