"""vlv: the Vision-Language-Vision auto-encoder (arXiv 2507.07104).

Importing this package loads neither torch nor transformers; `vlv.VLV` does, on first use.
`vlv.load_image` opens pictures as every command does: upright, transparent parts over white.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlv.data.images import load_image
    from vlv.models.vlv import VLV

__version__ = "0.2.0"
__all__ = ["VLV", "__version__", "load_image"]


def __getattr__(name: str) -> Any:
    if name == "VLV":
        from vlv.models.vlv import VLV

        return VLV
    if name == "load_image":
        from vlv.data.images import load_image

        return load_image
    raise AttributeError(f"module 'vlv' has no attribute {name!r}")
