"""Photographs as COCO has them, and tiny pipelines."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluation.real.photographs import CAPTIONS, photograph
from tests.evaluation.real.pipelines import save_stable_diffusion_2, save_stable_diffusion_3
from tests.shared import shared_folder

from vlv.evaluation.metrics.picture_pairs import _alexnet


@pytest.fixture(scope="session")
def sd2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "tiny-sd2", save_stable_diffusion_2)


@pytest.fixture(scope="session")
def sd3_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "tiny-sd3", save_stable_diffusion_3)


@pytest.fixture(scope="session")
def alexnet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    state = _alexnet().state_dict()
    torch.save({f"features.{name}": value for name, value in state.items()}, file)
    return file


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Six photographs, one of them grey, and their captions beside the folder."""
    folder = tmp_path / "coco" / "val2014"
    folder.mkdir(parents=True)
    data: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for number, (name, texts) in enumerate(CAPTIONS.items()):
        picture = photograph(name)
        if name == "camera":
            picture = picture.convert("L")
        picture.save(folder / f"{name}.png")
        data["images"].append({"id": number, "file_name": f"{name}.png"})
        data["annotations"] += [{"image_id": number, "caption": text} for text in texts]
    (tmp_path / "coco" / "captions_val2014.json").write_text(json.dumps(data))
    return folder


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """A captions file of another captioner."""
    file = tmp_path / "ours.jsonl"
    texts = {f"{name}.png": f"A photograph of a {name}." for name in CAPTIONS}
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in texts.items()]
    file.write_text("\n".join(lines) + "\n")
    return file
