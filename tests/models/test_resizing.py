"""Resizing on a device: Pillow's bytes."""

import numpy as np
import pytest
import torch
from PIL import Image

from vlv.models.resizing import resize_as_pillow, resize_bicubic


@pytest.mark.parametrize(("old", "new"), [(384, 768), (48, 64), (64, 48), (7, 100), (100, 9)])
def test_tensors_give_the_bytes_that_pillow_gives(old: int, new: int) -> None:
    random = np.random.default_rng(old)
    noise = random.integers(0, 256, (2, old, old, 3), dtype=np.uint8)
    # Black and white alone: overshoot on both sides.
    noise[1] = (noise[1] > 127) * 255
    wanted = np.stack(
        [
            np.asarray(Image.fromarray(one).resize((new, new), Image.Resampling.BICUBIC))
            for one in noise
        ]
    )
    pixels = torch.from_numpy(noise)
    assert np.array_equal(resize_as_pillow(pixels, new).numpy(), wanted)
    assert np.array_equal(resize_bicubic(pixels, new).numpy(), wanted)
