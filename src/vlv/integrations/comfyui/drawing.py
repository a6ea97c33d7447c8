"""Nodes that encode images, mix their embeddings, and draw them again."""

import math

from comfy_api.latest import io
from torch import Tensor

from vlv.integrations.comfyui.model import (
    CATEGORY,
    Embeddings,
    Model,
    drawing_inputs,
    images_of,
    pictures_of,
)
from vlv.integrations.comfyui.running import cancellable
from vlv.models.config import NUM_INFERENCE_STEPS, SCHEDULER
from vlv.models.vlv import Order, check_kept, joined
from vlv.pipeline import VLV

_BATCH = 16


class EncodeImages(io.ComfyNode):
    """Images -> caption embeddings z."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="VLVEncode",
            display_name="VLV encode",
            category=CATEGORY,
            inputs=[Model.Input("model"), io.Image.Input("image")],
            outputs=[Embeddings.Output(display_name="embeddings")],
        )

    @classmethod
    def execute(cls, model: VLV, image: Tensor) -> io.NodeOutput:
        """Embeddings (B,Q,d) of a batch."""
        return io.NodeOutput(model.encode(pictures_of(image)))


class Reconstruct(io.ComfyNode):
    """Embeddings -> images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="VLVReconstruct",
            display_name="VLV reconstruct",
            category=CATEGORY,
            inputs=[Model.Input("model"), Embeddings.Input("embeddings"), *drawing_inputs()],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(
        cls,
        model: VLV,
        embeddings: Tensor,
        seed: int = 0,
        steps: int = NUM_INFERENCE_STEPS,
        guidance_scale: float = 2.0,
        scheduler: str = SCHEDULER,
    ) -> io.NodeOutput:
        """One image for each of the embeddings, all from the same noise, as `vlv reconstruct`."""
        batches = math.ceil(len(embeddings) / _BATCH)
        with cancellable(model.decoder.denoiser, passes=steps * batches):
            drawn = model.reconstruct(
                embeddings,
                seeds=[seed] * len(embeddings),
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                scheduler=scheduler,
                batch_size=_BATCH,
            )
        return io.NodeOutput(images_of(drawn.images))


class ComposeEmbeddings(io.ComfyNode):
    """Some embeddings of one image, then some of another (paper, figure 6)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="VLVCompose",
            display_name="VLV compose",
            category=CATEGORY,
            inputs=[
                Model.Input("model"),
                Embeddings.Input("first"),
                Embeddings.Input("second"),
                io.Int.Input("keep_first", default=38, min=0, max=4096),
                io.Int.Input("keep_second", default=39, min=0, max=4096),
                io.Combo.Input(
                    "order",
                    options=["trailing", "leading"],
                    default="trailing",
                    tooltip="Which embeddings of the second image are kept.",
                ),
            ],
            outputs=[Embeddings.Output(display_name="embeddings")],
        )

    @classmethod
    def execute(
        cls,
        model: VLV,
        first: Tensor,
        second: Tensor,
        keep_first: int = 38,
        keep_second: int = 39,
        order: Order = "trailing",
    ) -> io.NodeOutput:
        """The joined embeddings, pair by pair; a ConfigError says where they do not fit."""
        check_kept(first, second, keep_first, keep_second, model.text_tower.positions)
        return io.NodeOutput(joined(first, second, keep_first, keep_second, order))
