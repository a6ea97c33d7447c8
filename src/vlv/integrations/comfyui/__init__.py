"""VLV's nodes for ComfyUI, in its V3 schema.

A folder in ComfyUI's `custom_nodes` whose `__init__.py` imports `comfy_entrypoint` from here makes
them known. This package is imported inside ComfyUI only, which brings `comfy_api`.
"""

from comfy_api.latest import ComfyExtension, io

from vlv.integrations.comfyui.captioning import CaptionFolder, CaptionImages, VerifyCaption
from vlv.integrations.comfyui.drawing import ComposeEmbeddings, EncodeImages, Reconstruct
from vlv.integrations.comfyui.model import LoadModel

NODES: list[type[io.ComfyNode]] = [
    LoadModel,
    CaptionImages,
    CaptionFolder,
    VerifyCaption,
    EncodeImages,
    Reconstruct,
    ComposeEmbeddings,
]


class VLVExtension(ComfyExtension):
    """The node pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes."""
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI asks a node pack for."""
    return VLVExtension()


__all__ = ["NODES", "VLVExtension", "comfy_entrypoint"]
