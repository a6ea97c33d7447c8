"""`vlv export onnx`: the encoder in another runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vlv.checkpoints.onnx import export_onnx
from vlv.checkpoints.opening import load_model
from vlv.errors import ConfigError


@pytest.mark.engines
def test_the_encoder_gives_the_same_z_for_any_number_of_images(tmp_path: Path) -> None:
    import onnxruntime

    model = load_model("vlv-mini")
    export_onnx(model, tmp_path / "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "encoder.onnx")
    size = model.encoder.settings.image_size
    for count in (1, 2, 5):
        pixels = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            z = model.encoder(pixels).numpy()
        (made,) = session.run(["caption_embeddings"], {"pixel_values": pixels.numpy()})
        assert made.shape == z.shape == (count, 77, 128)
        # Of values up to 7, after 20 layers in float32.
        assert np.abs(made - z).max() < 2e-4
    with pytest.raises(ConfigError, match="exists; remove it or name another place"):
        export_onnx(model, tmp_path / "onnx")
