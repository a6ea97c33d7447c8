"""Training through decoders of other families than Stable Diffusion."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tests.tiny import TINY_SD3_MODEL
from tests.training.conftest import Workshop

from vlv.errors import ConfigError
from vlv.pipeline import VLV
from vlv.training.checkpoint import list_checkpoints


@pytest.fixture(scope="module")
def flow(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model of SD 3's classes, trained for two steps on the mini's world."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "model.yaml").write_text(yaml.safe_dump(TINY_SD3_MODEL))
    return workshop.run(
        "text-to-image",
        model=str(folder / "model.yaml"),
        output_dir=str(folder / "t2i"),
        weighting_scheme="logit_normal",
        validation_steps=2,
    )


def weights(final: Path) -> dict[str, torch.Tensor]:
    model = VLV.from_pretrained(final)
    return {**model.encoder.state_dict(), **model.decoder.state_dict(prefix="decoder.")}


def test_a_flow_transformer_teaches_an_encoder_and_then_a_caption_decoder(
    workshop: Workshop, flow: Path, tmp_path: Path
) -> None:
    one = workshop.run("stage1", decoder=str(flow), output_dir=str(tmp_path / "s1"))
    stage1, before = VLV.from_pretrained(one), VLV.from_pretrained(flow)
    assert list(stage1.encoder.slots) == ["clip_l", "clip_g"]
    for name, value in before.decoder.state_dict().items():
        assert torch.equal(value, stage1.decoder.state_dict()[name])
    two = workshop.run("stage2", stage1=str(one), output_dir=str(tmp_path / "s2"))
    model = VLV.from_pretrained(two)
    image = Image.new("RGB", (64, 64), "red")
    assert len(model.caption([image], num_beams=1, max_new_tokens=4)) == 1
    assert model.reconstruct(image, num_inference_steps=2).images[0].size == (64, 64)


def test_a_run_through_a_flow_that_was_stopped_ends_with_the_same_bits(
    workshop: Workshop, flow: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"decoder": str(flow), "checkpointing_steps": 2, "noise_draws": 2}
    settings |= {"max_train_steps": 4, "checkpoints_total_limit": 9}
    whole = workshop.run("stage1", output_dir=str(tmp_path / "a"), **settings)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "final")
    last, *_ = sorted(list_checkpoints(tmp_path / "b"), reverse=True)
    shutil.rmtree(last)
    again = workshop.run("stage1", output_dir=str(tmp_path / "b"), **settings)
    a, b = weights(whole), weights(again)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("decoder", ["stable-diffusion", "sd3"])
def test_the_encoder_can_write_the_conditioning_itself(
    workshop: Workshop, flow: Path, tmp_path: Path, decoder: str
) -> None:
    folder = flow if decoder == "sd3" else workshop.root / "t2i" / "final"
    final = workshop.run(
        "stage1", decoder=str(folder), output_dir=str(tmp_path / "s1"), entry="conditioning"
    )
    model = VLV.from_pretrained(final)
    assert json.loads((final / "vlv.json").read_text())["config"]["entry"] == "conditioning"
    z = model.encode(Image.new("RGB", (64, 64), "red"))
    tokens = model.text_tower.conditioning_width
    assert torch.equal(model.condition(z).tokens, z[..., :tokens])
    assert z.shape[-1] == tokens + (16 if decoder == "sd3" else 0)
    assert model.reconstruct(z, num_inference_steps=2).images[0].size == (64, 64)
    assert model.draw(["a red cube"], num_inference_steps=2).images[0].size == (64, 64)


def test_an_entry_is_of_a_fresh_encoder(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="entry is of a fresh encoder"):
        workshop.run(
            "stage1",
            initial_model=str(workshop.root / "s1" / "final"),
            output_dir=str(tmp_path),
            entry="conditioning",
        )
