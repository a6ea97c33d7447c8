"""A whitened start: z differs between pictures before the first step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.conftest import Workshop
from torch import Tensor

from vlv.checkpoints.opening import load_model
from vlv.errors import ConfigError
from vlv.models.encoder import TASK_PROMPTS, VLVEncoder
from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import train_florence_tokenizer
from vlv.training.reproduce import configs_folder
from vlv.training.whitened_start import start_whitened


def encoder_of(slots: dict[str, int]) -> VLVEncoder:
    """A fresh encoder of the mini's sizes."""
    config = VLVConfig.from_yaml(configs_folder() / "mini" / "model.yaml")
    torch.manual_seed(0)
    tokenizer = train_florence_tokenizer(TASK_PROMPTS.values())
    return VLVEncoder.from_config(config.encoder, tokenizer, slots)


def colour_fields(count: int, seed: int) -> Tensor:
    """Pictures of four colours each (count,64,64,3)."""
    colours = np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), np.uint8)
    return torch.from_numpy(colours.repeat(32, axis=1).repeat(32, axis=2))


@torch.no_grad()
def share_of_pictures(encoder: VLVEncoder, pictures: Tensor) -> float:
    """How much of the size of z is what differs between pictures."""
    z = encoder(encoder.preprocess_uint8(pictures))
    return float((z - z.mean(0)).square().mean() / z.square().mean()) ** 0.5


@pytest.mark.parametrize("slots", [{"tokens": 128}, {"clip_l": 96, "clip_g": 64}])
def test_embeddings_differ_between_pictures_that_were_not_looked_at(slots: dict[str, int]) -> None:
    encoder, others = encoder_of(slots), colour_fields(32, 1)
    fresh = share_of_pictures(encoder, others)
    start_whitened(encoder, colour_fields(192, 0), fresh_vision=True)
    assert share_of_pictures(encoder, others) > 0.2 > 0.05 > fresh


def test_weights_that_are_not_fresh_stay() -> None:
    encoder = encoder_of({"tokens": 128})
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    start_whitened(encoder, colour_fields(8, 0), fresh_vision=False)
    changed = [
        name for name, value in encoder.state_dict().items() if (value != before[name]).any()
    ]
    assert changed == ["phi.0.weight", "phi.0.bias", "phi.2.weight"]


def test_a_run_begins_with_it(workshop: Workshop, tmp_path: Path) -> None:
    def first_loss(start: str) -> float:
        run = tmp_path / start
        workshop.run("stage1", output_dir=str(run), phi_start=start, logging_steps=1)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return float(json.loads(lines[0])["loss"])

    assert first_loss("whitened") != first_loss("random")
    weight = load_model(tmp_path / "whitened" / "final").encoder.phi[0].weight
    assert torch.isfinite(weight).all()
    record = json.loads((tmp_path / "whitened" / "final" / "vlv.json").read_text())
    assert record["provenance"]["stages"]["stage1"]["config"]["phi_start"] == "whitened"


def test_a_trained_encoder_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    trained = str(workshop.root / "s1" / "final")
    with pytest.raises(
        ConfigError, match=r"has been through stage 1 already; set phi_start: random"
    ):
        workshop.run(
            "stage1", initial_model=trained, output_dir=str(tmp_path), phi_start="whitened"
        )


def test_one_picture_differs_from_no_other(workshop: Workshop, tmp_path: Path) -> None:
    data = {"folder": str(tmp_path / "world"), "count": 1, "workers": 1}
    with pytest.raises(ConfigError, match="needs at least two pictures; set phi_start: random"):
        workshop.run("stage1", data=data, output_dir=str(tmp_path / "run"), phi_start="whitened")
