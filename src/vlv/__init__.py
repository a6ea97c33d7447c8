"""vlv: the Vision-Language-Vision auto-encoder (arXiv 2507.07104).

Importing this package loads neither torch nor transformers; its names load on first use. Where
transformers is imported, before or after, its `Auto` classes and `pipeline` know VLV's.
`load_image` opens images as every command does: upright, transparent parts over white.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlv.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    ImageError,
    OutOfDistributionWarning,
    TrainingError,
    VLVError,
)
from vlv.integrations.registration import register
from vlv.version import __version__

if TYPE_CHECKING:
    from vlv.data.images import load_image
    from vlv.inference.captioning import CaptionSettings
    from vlv.inference.postprocess import Cleaning
    from vlv.inference.reconstruction import DrawSettings
    from vlv.integrations.datasets import caption_dataset
    from vlv.integrations.diffusers import VLVPipeline
    from vlv.models.outputs import Caption, ImageOutput
    from vlv.pipeline import VLV
    from vlv.verification.scorer import VerifySettings
    from vlv.verification.verdicts import SentenceSupport

_PLACES = {
    "VLV": "vlv.pipeline",
    "load_image": "vlv.data.images",
    "ImageOutput": "vlv.models.outputs",
    "Caption": "vlv.models.outputs",
    "SentenceSupport": "vlv.verification.verdicts",
    "CaptionSettings": "vlv.inference.captioning",
    "Cleaning": "vlv.inference.postprocess",
    "DrawSettings": "vlv.inference.reconstruction",
    "VerifySettings": "vlv.verification.scorer",
    "VLVPipeline": "vlv.integrations.diffusers",
    "caption_dataset": "vlv.integrations.datasets",
}
__all__ = [
    "VLV",
    "Caption",
    "CaptionSettings",
    "CheckpointError",
    "Cleaning",
    "ConfigError",
    "DatasetError",
    "DrawSettings",
    "ImageError",
    "ImageOutput",
    "OutOfDistributionWarning",
    "SentenceSupport",
    "TrainingError",
    "VLVError",
    "VLVPipeline",
    "VerifySettings",
    "__version__",
    "caption_dataset",
    "load_image",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'vlv' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


register()
