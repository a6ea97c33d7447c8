"""The encoder as an ONNX file: normalised pixels -> caption embeddings z, for other programs.

Shapes: B images, S the encoder's image size, Q queries, d width of z.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from vlv.errors import ConfigError
from vlv.files import atomic_folder
from vlv.models.vlv import VLVModel

ONNX_FILE = "encoder.onnx"


def export_onnx(model: VLVModel, out: Path) -> None:
    """Write the folder `out` with `encoder.onnx`, and its weights beside it where they are large.

    Its input is `pixel_values` (B,3,S,S) and its output `caption_embeddings` (B,Q,d), both float32,
    for any B.

    Raises:
        ConfigError: a package is missing, or `out` exists.
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise ConfigError(
                f"an ONNX file needs {package}, which is not installed; run: "
                "pip install 'vlv[onnx]'"
            )
    if out.exists():
        raise ConfigError(f"{out} exists; remove it or name another place")
    encoder = model.encoder.float().cpu()
    size = encoder.settings.image_size
    # Two images: a batch of one would be taken for a fixed size.
    example = torch.zeros(2, 3, size, size)
    with atomic_folder(out.absolute()) as building, torch.no_grad(), _quietly():
        torch.onnx.export(
            encoder,
            (example,),
            building / ONNX_FILE,
            dynamo=True,
            input_names=["pixel_values"],
            output_names=["caption_embeddings"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=4096)}},
            verbose=False,
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter reports on packages that are not needed, and warns of its own parts."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
