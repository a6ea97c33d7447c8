"""32 scenes that the mini model has encoded, and what `generate` writes of them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import vlv
from vlv.checkpoints.opening import load_model
from vlv.models.outputs import Caption
from vlv.models.vlv import VLVModel
from vlv.world.render import render
from vlv.world.scene import sample_scene

MINI = Path(vlv.__file__).parent / "weights" / "mini"
SCENES = 32
TOKENS = 120


@dataclass(frozen=True)
class Encoded:
    """c and e of the scenes, and the greedy captions of transformers in float32."""

    model: VLVModel
    c: Tensor
    e: Tensor
    greedy: list[Caption]


@pytest.fixture(scope="package")
def scenes() -> Encoded:
    model = load_model(MINI)
    images = [Image.fromarray(render(sample_scene(seed, "test"))) for seed in range(SCENES)]
    with torch.inference_mode():
        c = model.read(model.encode(images))
        e = model.caption_decoder.psi(c)
    greedy = model.caption_decoder.generate(c, num_beams=1, max_new_tokens=TOKENS)
    return Encoded(model, c, e, greedy)
