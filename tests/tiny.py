"""A tiny VLV of the real classes as a model folder, for the rooms that use models.

Its captioner has learned what to say of a few plain pictures, so that captions are words, differ
between images and end by themselves; everything else is random.
"""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.models.conftest import TEXTS, TINY

from vlv.models.config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)
from vlv.pipeline import VLV

# Colour of a plain picture -> its caption.
CAPTIONS = {
    "red": "A red cube stands on the left. The floor is gray.",
    "blue": "The light comes from the right.",
    "lime": "Two green cones stand at the back on a brown floor.",
}


def plain(color: str, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A picture of one colour, which the tiny model can caption if it is among `CAPTIONS`."""
    return Image.new("RGB", size, color)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = VLV.from_config(
        VLVConfig.model_validate(TINY),
        encoder_tokenizer=train_florence_tokenizer(TEXTS),
        text_tokenizer=train_clip_tokenizer(TEXTS),
        language_tokenizer=train_qwen2_tokenizer([*TEXTS, *CAPTIONS.values()]),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for box in (model.encoder, model.text_tower):
            for parameter in box.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    loss = learn(model, CAPTIONS, steps=120)
    assert loss < 0.05
    folder = tmp_path_factory.mktemp("tiny") / "model"
    model.save_pretrained(folder)
    return folder


def learn(model: VLV, captions: dict[str, str], steps: int) -> float:
    """Teach the captioner what to say of plain pictures; the last loss is returned."""
    c = model.condition(model.encode([plain(color) for color in captions]))
    ids, lengths = model.caption_decoder.tokenise(list(captions.values()))
    optimizer = torch.optim.Adam(model.caption_decoder.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.caption_decoder(c, ids, lengths)
        loss.backward()
        optimizer.step()
    model.caption_decoder.eval()
    return loss.item()
