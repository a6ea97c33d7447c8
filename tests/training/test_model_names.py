"""What configs name is found: the package's model, model folders, folders of components; and a
model without a diffusion decoder goes on in stage 2.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tests.training.conftest import Workshop

from vlv.checkpoints.hub import EMBEDDED, WEIGHTS
from vlv.errors import CheckpointError
from vlv.pipeline import VLV
from vlv.training.model_names import component_folder, language_model_folder, model_folder
from vlv.training.registry import build_stage
from vlv.training.self_training import SelfTrainingConfig

MINI = WEIGHTS / "mini"


@pytest.fixture(scope="module")
def bare(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workshop's captioner as it is released: without U-Net and VAE, for pictures of 48 px."""
    model = VLV.from_pretrained(workshop.root / "s2" / "final")
    model.manifest.config.decoder_image_size = 48
    folder = tmp_path_factory.mktemp("bare")
    model.save_pretrained(folder, components=["encoder", "text_tower", "caption_decoder"])
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, color in enumerate(["red", "green", "blue", "white", "black", "gray"]):
        Image.new("RGB", (80, 60), color).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"All of it is {color}.\n")
    return folder


def run_config(path: Path, bare: Path, photos: Path, **changes: Any) -> Path:
    fields = {
        "output_dir": str(path / "run"),
        "stage1": str(bare),
        "caption_decoder": str(bare),
        "data": {"set": str(photos)},
        "validation_count": 2,
        "validation_steps": 1,
        "max_train_steps": 2,
        "train_batch_size": 2,
        "learning_rate": 1.0e-4,
        "denoising_weight": 0,
        "report_to": "none",
        **changes,
    }
    config = path / "run.yaml"
    config.write_text(yaml.safe_dump(fields))
    return config


def test_a_model_without_diffusion_decoder_goes_on_in_stage_2(
    vlv: Callable[..., Any], bare: Path, photos: Path, tmp_path: Path
) -> None:
    done = vlv("train", "stage2", "--config", run_config(tmp_path, bare, photos))
    assert done.code == 0, done.err
    final = tmp_path / "run" / "final"
    assert set(json.loads((final / "run.json").read_text())["validation"]) == {"caption_loss"}
    model = VLV.from_pretrained(final)
    assert model.manifest.components == ["encoder", "text_tower", "caption_decoder"]
    # The size of the pictures is that of the model, which has no decoder to ask.
    assert model.manifest.config.decoder_image_size == model.encoder.settings.crop_size == 48
    assert len(model.caption(Image.new("RGB", (80, 60)), num_beams=1, max_new_tokens=2)) == 1


@pytest.mark.parametrize("checkpointing", [None, True])
def test_psi_and_language_model_alone_need_no_decoder_either(
    vlv: Callable[..., Any], bare: Path, photos: Path, tmp_path: Path, checkpointing: bool | None
) -> None:
    """Nothing of the encoder moves, so the weight of the denoising loss does not count."""
    changes = {"denoising_weight": 1.0, "trainable": ["psi", "language_model"]}
    config = run_config(tmp_path, bare, photos, gradient_checkpointing=checkpointing, **changes)
    done = vlv("train", "stage2", "--config", config, "max_train_steps=1")
    assert done.code == 0, done.err


def test_a_denoising_loss_without_decoder_is_one_sentence(
    vlv: Callable[..., Any], bare: Path, photos: Path, tmp_path: Path
) -> None:
    config = run_config(tmp_path, bare, photos, denoising_weight=1.0)
    refused = vlv("train", "stage2", "--config", config)
    assert refused.code == 2
    assert "has no diffusion decoder; set denoising_weight: 0" in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    stage1 = vlv("train", "stage1", "--config", config, "initial_model=" + str(bare))
    assert stage1.code != 0


def test_the_world_trains_a_caption_decoder_without_diffusion_decoder(
    workshop: Workshop, bare: Path, tmp_path: Path
) -> None:
    changes = {"stage1": str(bare), "caption_decoder": str(bare), "language_model": None}
    final = workshop.run(
        "stage2", **changes, denoising_weight=0, output_dir=str(tmp_path), max_train_steps=1
    )
    assert not (final / "unet").exists()


def test_self_training_by_the_decoder_needs_one(
    vlv: Callable[..., Any], bare: Path, photos: Path, tmp_path: Path
) -> None:
    fields = {
        "output_dir": str(tmp_path / "self-trained"),
        "start": str(bare),
        "data": {"set": str(photos)},
        "pairs": 2,
        "rounds": 1,
        "images": 2,
        "samples": 2,
        "stage2": {
            "max_train_steps": 1,
            "train_batch_size": 2,
            "learning_rate": 1.0e-4,
            "validation_count": 1,
            "max_tokens": 4,
        },
    }
    config = tmp_path / "self-training.yaml"
    config.write_text(yaml.safe_dump(fields))
    refused = vlv("train", "self-training", "--config", config)
    assert (refused.code, "selector: decoder needs a diffusion decoder" in refused.err) == (2, True)
    done = vlv("train", "self-training", "--config", config, "selector=likelihood")
    assert done.code == 0, done.err


@pytest.mark.parametrize("name", [Path("vlv-mini"), MINI])
def test_a_model_stands_for_its_components(name: Path) -> None:
    assert model_folder(name) == MINI
    for component in ("encoder", "caption_decoder", "vae"):
        assert component_folder(name, component) == MINI / component
        assert component_folder(MINI / component, component) == MINI / component
    inner = MINI / "caption_decoder" / "language_model"
    assert language_model_folder(name) == language_model_folder(inner) == inner


def test_what_a_name_lacks_is_reported() -> None:
    with pytest.raises(CheckpointError, match="vlv-mini-stage1 has no caption_decoder; it holds"):
        component_folder(Path("vlv-mini-stage1"), "caption_decoder")
    with pytest.raises(CheckpointError, match="no model of the package is called so"):
        component_folder(Path("vlv-maxi"), "vae")


FIELDS: dict[str, dict[str, str]] = {
    "vae": {"initial_vae": "vlv-mini"},
    "text-to-image": {"vae": "vlv-mini", "initial_model": "vlv-mini"},
    "stage1": {"initial_model": "vlv-mini-stage1", "decoder": "vlv-mini"},
    "stage2": {"stage1": "vlv-mini", "encoder": "vlv-mini-stage1", "caption_decoder": "vlv-mini"},
}


@pytest.mark.parametrize("stage", FIELDS)
def test_every_field_that_names_a_model_takes_the_package_s(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """From any folder, and going on from the records of its runs."""
    changes: dict[str, Any] = {"language_model": None} if stage == "stage2" else {}
    config = workshop.config(stage, **FIELDS[stage], **changes, output_dir=str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    built = build_stage(stage, config)
    made = json.loads((EMBEDDED[FIELDS["stage1"]["initial_model"]] / "vlv.json").read_text())
    stages = {**json.loads((MINI / "vlv.json").read_text())["provenance"]["stages"]}
    stages["stage1"] = made["provenance"]["stages"]["stage1"]
    assert built.before == stages[stage]


def test_a_language_model_may_be_the_package_s(workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.config("stage2", language_model="vlv-mini", output_dir=str(tmp_path))
    built, model = build_stage("stage2", config), VLV.from_pretrained("vlv-mini")
    mine, theirs = (
        sum(p.numel() for p in decoder.lm.parameters())
        for decoder in (built.objective.caption_decoder, model.caption_decoder)
    )
    assert mine == theirs


def test_self_training_starts_from_the_package_s_model(tmp_path: Path) -> None:
    stage2 = {"max_train_steps": 1, "train_batch_size": 1, "learning_rate": 1.0e-3}
    config = SelfTrainingConfig(output_dir=tmp_path, start=Path("vlv-mini"), pairs=1, stage2=stage2)
    assert config.round_config(0).caption_decoder == MINI / "caption_decoder"


@pytest.mark.parametrize(
    ("stage", "field", "hint"),
    [
        ("stage1", "decoder", "none."),
        ("stage1", "initial_model", "none; `vlv assemble` writes an untrained model"),
        ("stage2", "stage1", "none; it is the folder `final` of a finished run of stage 1"),
        ("text-to-image", "initial_model", "none; `vlv assemble` writes an untrained model"),
    ],
)
def test_a_missing_model_is_named_with_its_field(
    workshop: Workshop, tmp_path: Path, stage: str, field: str, hint: str
) -> None:
    """Before anything is computed."""
    fields = {field: str(tmp_path / "none"), "output_dir": str(tmp_path / "run")}
    if stage == "text-to-image":
        fields["vae"] = "vlv-mini"
    with pytest.raises(CheckpointError) as raised:
        build_stage(stage, workshop.config(stage, **fields))
    message = str(raised.value)
    assert message.startswith(f"{field}: There is no file or folder {tmp_path / 'none'}"), message
    assert hint in message


def test_stages_start_from_models_of_the_hub(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their ids, as `--model` does."""
    repository = tmp_path / "models--someone--captioner"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(workshop.root / "s2" / "final", repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name, run = "someone/captioner", str(tmp_path / "run")
    decoder = workshop.config("stage1", decoder=name, output_dir=run)
    initial = workshop.config("stage1", initial_model=name, decoder=name, output_dir=run)
    captions = workshop.config("stage2", stage1=name, output_dir=run)
    trained = VLV.from_pretrained(workshop.root / "s2" / "final").encoder.queries
    assert not torch.equal(build_stage("stage1", decoder).objective.encoder.queries, trained)
    assert torch.equal(build_stage("stage1", initial).objective.encoder.queries, trained)
    assert torch.equal(build_stage("stage2", captions).objective.encoder.queries, trained)
