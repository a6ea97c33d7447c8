"""Networks that look at pictures: which features they give, and what they refuse."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluation.real.photographs import CAPTIONS, photograph
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from vlv.errors import CheckpointError, ConfigError
from vlv.evaluation.metrics.image_networks import (
    INCEPTION,
    OwnEncoder,
    cosine,
    open_network,
)

PICTURES = [photograph(name) for name in CAPTIONS]


@pytest.fixture(scope="module")
def dino_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino") / "model"
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(folder)
    return folder


def test_a_dino_gives_its_first_token(dino_dir: Path) -> None:
    network = open_network(str(dino_dir), "cpu")
    model = Dinov2Model.from_pretrained(dino_dir)
    inputs = BitImageProcessorPil.from_pretrained(dino_dir)(images=PICTURES, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state[:, 0]
    assert network.features(PICTURES) == pytest.approx(expected.numpy(), abs=1e-5)
    assert cosine(network.features(PICTURES), network.features(PICTURES)) == pytest.approx(1)


def test_the_key_changes_with_the_weights(dino_dir: Path) -> None:
    before = open_network(str(dino_dir), "cpu").key
    assert before == open_network(str(dino_dir), "cpu").key
    torch.manual_seed(1)
    Dinov2Model(Dinov2Model.from_pretrained(dino_dir).config).save_pretrained(dino_dir)
    assert open_network(str(dino_dir), "cpu").key != before


def test_our_encoders_and_unknown_names() -> None:
    network = open_network("vlv-mini", "cpu")
    assert isinstance(network, OwnEncoder)
    features = network.features(PICTURES[:2])
    assert features.shape[0] == 2 and not np.array_equal(features[0], features[1])
    with pytest.raises(CheckpointError):
        open_network("nobody/no-such-network")


def test_without_its_library_inception_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ConfigError, match="pip install torch-fidelity"):
        open_network(INCEPTION, "cpu")
