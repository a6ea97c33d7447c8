"""vlv: the Vision-Language-Vision auto-encoder (arXiv 2507.07104).

Importing this package loads neither torch nor transformers; `vlv.VLV` does, on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlv.models.vlv import VLV

__version__ = "0.1.0"
__all__ = ["VLV", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "VLV":
        from vlv.models.vlv import VLV

        return VLV
    raise AttributeError(f"module 'vlv' has no attribute {name!r}")
