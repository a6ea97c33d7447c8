"""torchmetrics, which computes FID, KID, LPIPS, PSNR and SSIM, and torch-fidelity, which has the
Inception of FID; both without torchvision.

torch-fidelity's package imports torchvision, which only its other networks need; and torchmetrics
imports torch-fidelity wherever that is installed. So the package's own imports are passed over.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from vlv.errors import ConfigError

_FIDELITY = "torch_fidelity"


def torchmetrics(module: str) -> Any:
    """A module of torchmetrics, such as `image`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        with _bare_fidelity():
            return import_module(f"torchmetrics.{module}")
    except ImportError as error:
        raise ConfigError(
            "FID, KID, LPIPS, PSNR and SSIM need torchmetrics; install it with: "
            "pip install 'vlv[images]'"
        ) from error


def inception_class() -> Any:
    """torch-fidelity's `FeatureExtractorInceptionV3`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        with _bare_fidelity():
            module = import_module(f"{_FIDELITY}.feature_extractor_inceptionv3")
    except ImportError as error:
        raise ConfigError(
            "FID's Inception is torch-fidelity's; install it with: pip install torch-fidelity, or "
            "name another network with --features"
        ) from error
    return module.FeatureExtractorInceptionV3


@contextmanager
def _bare_fidelity() -> Iterator[None]:
    """Modules of torch-fidelity are found, and the package's own imports are not run. Afterwards
    others who import the package get the whole of it.
    """
    spec = None if _FIDELITY in sys.modules else importlib.util.find_spec(_FIDELITY)
    if spec is None or spec.submodule_search_locations is None:
        yield
        return
    bare = ModuleType(_FIDELITY)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[_FIDELITY] = bare
    try:
        yield
    finally:
        del sys.modules[_FIDELITY]
