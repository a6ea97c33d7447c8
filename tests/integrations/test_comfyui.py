"""The nodes for ComfyUI do what the facade does, through the interface that ComfyUI documents."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.integrations import comfy_interface
from tests.integrations.comfy_interface import Interrupted, Running
from tests.tiny import CAPTIONS, plain, save_pictures, tiny_model_dir

from vlv import VLV
from vlv.data.world_sets import world_samples
from vlv.errors import ConfigError

comfy_interface.install()

__all__ = ["tiny_model_dir"]

PICTURES = [plain(color) for color in list(CAPTIONS)[:2]]
IMAGES = torch.stack([torch.from_numpy(np.array(one)).float() / 255 for one in PICTURES])


@pytest.fixture(scope="module")
def nodes() -> dict[str, Any]:
    from vlv.integrations.comfyui import comfy_entrypoint

    listed = asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())
    by_id = {node.define_schema().node_id: node for node in listed}
    assert len(by_id) == len(listed) == 7
    return by_id


@pytest.fixture(scope="module")
def model(nodes: dict[str, Any], tiny_model_dir: Path) -> VLV:
    (opened,) = nodes["VLVLoadModel"].call(model=str(tiny_model_dir), device="cpu")
    return opened


def test_a_batch_of_images_gives_a_list_of_captions(nodes: dict[str, Any], model: VLV) -> None:
    (captions,) = nodes["VLVCaption"].call(model=model, image=IMAGES)
    assert captions == model.caption(PICTURES) == list(CAPTIONS.values())[:2]
    (begun,) = nodes["VLVCaption"].call(model=model, image=IMAGES, trigger="ohwx")
    assert begun[0] == f"ohwx, {captions[0]}"


def test_images_are_drawn_again_as_by_reconstruct(nodes: dict[str, Any], model: VLV) -> None:
    (z,) = nodes["VLVEncode"].call(model=model, image=IMAGES)
    assert torch.equal(z, model.encode(PICTURES))
    (drawn,) = nodes["VLVReconstruct"].call(model=model, embeddings=z, seed=5, steps=2)
    wanted = model.reconstruct(z, seeds=[5, 5], num_inference_steps=2).images
    assert drawn.shape == (2, 32, 32, 3) and drawn.dtype == torch.float32
    assert (drawn * 255).round().byte().numpy().tolist() == [np.array(x).tolist() for x in wanted]


def test_embeddings_are_composed(nodes: dict[str, Any], model: VLV) -> None:
    first, second = model.encode(PICTURES).split(1)
    inputs = {"model": model, "first": first, "second": second}
    (z,) = nodes["VLVCompose"].call(**inputs, keep_first=2, keep_second=4)
    assert torch.equal(z, torch.cat([first[:, :2], second[:, -4:]], 1))
    (z,) = nodes["VLVCompose"].call(**inputs, keep_first=2, keep_second=4, order="leading")
    assert torch.equal(z, torch.cat([first[:, :2], second[:, :4]], 1))
    with pytest.raises(ConfigError, match="each image has 6"):
        nodes["VLVCompose"].call(**inputs)


def test_a_folder_gets_caption_files(nodes: dict[str, Any], model: VLV, tmp_path: Path) -> None:
    save_pictures(tmp_path)
    (tmp_path / "red.txt").write_text("mine")
    (tmp_path / "lime.txt").mkdir()  # where a caption cannot be written
    (tmp_path / "torn.png").write_text("no image")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (report,) = nodes["VLVCaptionFolder"].call(model=model, folder=str(tmp_path))
    first, *failed = report.splitlines()
    assert first == "1 captions written, 1 images left as they are, 3 failed"
    for name in ("torn.png", "gone.png", "lime.png"):
        assert sum(name in line for line in failed) == 1
    assert (tmp_path / "red.txt").read_text() == "mine"
    assert (tmp_path / "blue.txt").read_text() == CAPTIONS["blue"] + "\n"
    with pytest.raises(ConfigError, match="no folder"):
        nodes["VLVCaptionFolder"].call(model=model, folder=str(tmp_path / "none"))


def test_cancel_ends_a_node_and_progress_is_counted(
    nodes: dict[str, Any], model: VLV, tmp_path: Path
) -> None:
    Running.counted.clear()
    z = model.encode(PICTURES)
    nodes["VLVReconstruct"].call(model=model, embeddings=z, steps=3)
    assert Running.counted == [3]
    save_pictures(tmp_path)
    cancelled: dict[str, dict[str, Any]] = {
        "VLVReconstruct": {"embeddings": z, "steps": 3},
        "VLVCaption": {"image": IMAGES},
        "VLVCaptionFolder": {"folder": str(tmp_path)},
    }
    for name, inputs in cancelled.items():
        Running.cancelled = True
        with pytest.raises(Interrupted):
            nodes[name].call(model=model, **inputs)
    assert list(tmp_path.glob("*.txt")) == []
    # No hook is left behind: the next node runs to its end.
    nodes["VLVCaptionFolder"].call(model=model, folder=str(tmp_path))
    assert Running.counted[-1] == len(list(tmp_path.glob("*.txt"))) == len(CAPTIONS)


def test_sentences_are_marked(nodes: dict[str, Any]) -> None:
    (mini,) = nodes["VLVLoadModel"].call(device="cpu")
    (sample,) = world_samples(1, seed=11, split="test")
    image = torch.from_numpy(np.array(sample.picture())).float()[None] / 255
    true = str(sample.caption)
    caption = true + " A photo of a cat."
    kept, wrong, marks = nodes["VLVVerify"].call(model=mini, image=image, caption=caption)
    assert (kept, wrong) == (caption, 0)  # what cannot be judged is kept
    assert json.loads(marks)[-1]["verdict"] == "cannot_judge"
