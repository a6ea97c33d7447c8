"""`reproduce`: the stages in their order, what is done skipped, and the parts put together."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from PIL import Image
from tests.training.conftest import Workshop

from vlv.checkpoints.boxes import load_caption_decoder
from vlv.checkpoints.components import load_network
from vlv.checkpoints.hub import EMBEDDED
from vlv.errors import ConfigError, TrainingError
from vlv.pipeline import VLV
from vlv.training import reproduce as reproduction
from vlv.training.config import read_yaml
from vlv.training.registry import build_stage
from vlv.training.stage import Stage
from vlv.verification.fitting import REFERENCES
from vlv.world.inspector import Inspector

# Fields that name what an earlier stage wrote.
INPUTS = ("vae", "decoder_of", "decoder", "stage1", "language_model", "caption_decoder")
# The workshop has run these three already.
DONE = ("vae", "text-to-image", "language-model")


@pytest.fixture
def preset(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset of tiny configs; its runs that are not done go to tmp_path."""
    folder = tmp_path / "configs" / "tiny"
    folder.mkdir(parents=True)
    changes = {
        "inspector": {},
        "vae-decoder": {"decoder_of": str(workshop.root / "vae" / "final" / "vae")},
        "stage1": {},
        "stage2": {"stage1": str(tmp_path / "stage1" / "final")},
        "captions": {
            "stage1": str(tmp_path / "stage2" / "final"),
            "language_model": None,
            "caption_decoder": str(tmp_path / "stage2" / "final" / "caption_decoder"),
            "trainable": ["psi", "language_model"],
            "denoising_weight": 0,
        },
        "nested": {
            "stage1": str(tmp_path / "captions" / "final"),
            "language_model": None,
            "caption_decoder": str(tmp_path / "captions" / "final" / "caption_decoder"),
            "query_drop": "tail",
        },
    }
    paths = {name: workshop.config(name) for name in DONE}
    for name, own in changes.items():
        kind = reproduction.ORDER[name]
        paths[name] = workshop.config(kind, output_dir=str(tmp_path / name), **own)
    for name, path in paths.items():
        (folder / f"{name}.yaml").write_text(path.read_text())
    (folder / "model.yaml").write_text((workshop.root / "model.yaml").read_text())
    monkeypatch.setattr(reproduction, "configs_folder", lambda: folder.parent)
    return folder.name


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the configs whose stages were run, in order."""
    names: list[str] = []

    def noted(name: str, path: Path, overrides: list[str] | None = None) -> Stage:
        names.append(path.stem)
        return build_stage(name, path, overrides)

    monkeypatch.setattr(reproduction, "build_stage", noted)
    return names


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the verifier, which an untrained model writes long captions of."""
    scenes = reproduction.verifier_scenes()[: REFERENCES + 4]
    monkeypatch.setattr(reproduction, "verifier_scenes", lambda: scenes)


@pytest.mark.slow
def test_the_verifier_sees_all_its_scenes(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    target = reproduction.reproduce(preset)
    has_verifier = VLV.from_pretrained(target / "mini").verifier is not None
    assert has_verifier != ("no verifier for" in caplog.text)


@pytest.mark.usefixtures("few_scenes")
def test_stages_run_in_order_and_what_is_done_is_skipped(
    workshop: Workshop, preset: str, built: list[str], tmp_path: Path
) -> None:
    target = reproduction.reproduce(preset)
    assert built == ["inspector", "vae-decoder", "stage1", "stage2", "captions", "nested"]
    assert target == tmp_path / "model"

    model = VLV.from_pretrained(target / "mini")
    assert model.ood_detector is not None and model.ood_detector.settings.count == 32
    image = Image.new("RGB", (64, 64), (90, 120, 40))
    assert len(model.caption(image, num_beams=1, max_new_tokens=3)) == 1
    assert set(model.provenance["stages"]) == {
        *DONE,
        "inspector",
        "vae-decoder",
        "stage1",
        "stage2",
    }
    last = model.provenance["stages"]["stage2"]
    assert last["config"]["query_drop"] == "tail"
    before = last["before"]
    assert before["config"]["trainable"] == ["psi", "language_model"]
    assert before["before"]["config"]["stage1"] == str(tmp_path / "stage1" / "final")
    written = load_caption_decoder(tmp_path / "nested" / "final" / "caption_decoder")
    for name, value in model.caption_decoder.state_dict().items():
        assert torch.equal(value, written.state_dict()[name].half().float()), name
    longest = load_network(AutoencoderKL, tmp_path / "vae-decoder" / "final" / "vae")
    first = load_network(AutoencoderKL, workshop.root / "vae" / "final" / "vae")
    for name, value in model.decoder.vae.state_dict().items():
        assert torch.equal(value, longest.state_dict()[name].half().float()), name
        if name.startswith(("encoder.", "quant_conv.")):
            # Latents stay what they were when the U-Net learned on them.
            assert torch.equal(longest.state_dict()[name], first.state_dict()[name]), name
    assert VLV.from_pretrained(target / "mini-stage1").manifest.components == ["encoder"]
    assert Inspector.from_pretrained(target / "inspector").num_features

    built.clear()
    files = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    reproduction.reproduce(preset)
    assert built == []
    assert {path: path.stat().st_mtime_ns for path in files} == files

    # What was cut off while it was assembled is assembled.
    (target / reproduction.ASSEMBLED).unlink()
    reproduction.reproduce(preset)
    assert (target / "mini" / "vlv.json").stat().st_mtime_ns > files[target / "mini" / "vlv.json"]

    (tmp_path / "stage2" / "final" / "run.json").unlink()
    reproduction.reproduce(preset)
    assert built == ["stage2"]

    built.clear()
    stage2 = reproduction.configs_folder() / preset / "stage2.yaml"
    change(stage2, max_train_steps=3)
    # It goes on to the longer end. An earlier stage that is run again makes the later ones old.
    with pytest.raises(ConfigError, match=r"captions.final was made from other weights .* remove"):
        reproduction.reproduce(preset)
    assert built == ["stage2"]
    built.clear()
    change(stage2.with_name("stage1.yaml"), seed=5)
    shutil.rmtree(tmp_path / "stage1")
    with pytest.raises(ConfigError, match=r"stage2.final was made from other weights .* remove"):
        reproduction.reproduce(preset)
    assert built == ["stage1"]
    change(stage2, learning_rate=0.5)
    with pytest.raises(ConfigError, match=r"stage2.* other values of learning_rate"):
        reproduction.reproduce(preset)
    record = tmp_path / "stage2" / "final" / "run.json"
    for damage in ("{", "[1]", '{"config": 3}', "[" * 5000):
        record.write_text(damage)
        with pytest.raises(TrainingError, match=r"run\.json"):
            reproduction.reproduce(preset)


def change(config: Path, **fields: Any) -> None:
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **fields}))


def test_presets_train_on_what_their_own_earlier_stages_wrote() -> None:
    """A config that names another run's folder names one that an earlier stage of it writes."""
    for preset in ("mini", "mini-gpu", "decoders/mini", "decoders/mini-unet"):
        written: list[str] = []
        for name in reproduction.ORDER:
            path = reproduction.configs_folder() / preset / f"{name}.yaml"
            if name in reproduction.OPTIONAL and not path.is_file():
                continue
            config = read_yaml(path)
            for key in (
                "vae",
                "decoder_of",
                "decoder",
                "stage1",
                "language_model",
                "caption_decoder",
            ):
                if key in config and config[key] not in EMBEDDED:
                    assert any(config[key].startswith(final) for final in written), (path, key)
            written.append(f"{config['output_dir']}/final")
