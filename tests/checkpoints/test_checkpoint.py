"""A model folder: what is saved comes back, and what does not fit is named."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tests import launcher
from transformers import AutoTokenizer, CLIPTextModel, Florence2Model, Qwen2ForCausalLM

from vlv.checkpoints import hub
from vlv.checkpoints.manifest import note_component
from vlv.checkpoints.opening import save_model
from vlv.errors import CheckpointError, ConfigError
from vlv.pipeline import VLV

# File of each component and the box whose use has to find its faults.
WEIGHTS = {
    "encoder/model.safetensors": "encoder",
    "encoder/vlv_head.safetensors": "encoder",
    "text_tower/model.safetensors": "text_tower",
    "vae/diffusion_pytorch_model.safetensors": "decoder",
    "unet/diffusion_pytorch_model.safetensors": "decoder",
    "caption_decoder/language_model/model.safetensors": "caption_decoder",
    "caption_decoder/psi.safetensors": "caption_decoder",
}
# Is killed while it writes a model into a folder that holds other things.
_KILLED = """
import os, signal, sys
from pathlib import Path
from vlv.checkpoints.manifest import shared_model_folder

with shared_model_folder(Path(sys.argv[1])) as building:
    (building / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
DRAWING = {"seeds": [1, 2, 3], "num_inference_steps": 2}


@pytest.fixture(scope="module")
def saved(template: VLV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    template.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def _pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def test_saved_and_loaded_models_give_identical_outputs(
    model: VLV, folder: Path, images: list[Image.Image]
) -> None:
    model.provenance["seed"] = 17
    model.save_pretrained(folder)
    loaded = VLV.from_pretrained(folder)
    assert loaded.provenance == {"seed": 17}
    assert torch.equal(loaded.encode(images), model.encode(images))
    assert loaded.caption(images, max_new_tokens=9) == model.caption(images, max_new_tokens=9)
    first, second = (other.reconstruct(images, **DRAWING).images for other in (model, loaded))
    assert (_pixels(first) == _pixels(second)).all()
    texts = ["a red cube", "a blue cone", "a gray floor"]
    first, second = (other.draw(texts, **DRAWING).images for other in (model, loaded))
    assert (_pixels(first) == _pixels(second)).all()
    assert not loaded.encoder.training


def test_a_second_save_writes_the_same_bytes_and_no_local_path(
    folder: Path, tmp_path: Path, images: list[Image.Image]
) -> None:
    loaded = VLV.from_pretrained(folder)
    loaded.caption(images, max_new_tokens=2)  # use leaves no trace in what is stored
    loaded.draw(["a cube"], num_inference_steps=1)
    loaded.save_pretrained(tmp_path / "again")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    again = tmp_path / "again"
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert {file.suffix for file in files} == {".json", ".safetensors", ".md"}
    for file in files:
        assert (folder / file).read_bytes() == (again / file).read_bytes(), file
        if file.suffix != ".safetensors":
            assert str(tmp_path) not in (again / file).read_text()


@pytest.mark.parametrize("dtype", [torch.float16, "float16"])
def test_half_precision_files_load_as_float32(
    model: VLV, dtype: torch.dtype | str, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "half", dtype=dtype)
    for file in WEIGHTS:
        stored = load_file(tmp_path / "half" / file).values()
        assert {tensor.dtype for tensor in stored} == {torch.float16}
    loaded = VLV.from_pretrained(tmp_path / "half")
    for name in ("encoder", "text_tower", "decoder", "caption_decoder"):
        assert {p.dtype for p in getattr(loaded, name).parameters()} == {torch.float32}
        for mine, theirs in zip(
            getattr(model, name).parameters(), getattr(loaded, name).parameters(), strict=True
        ):
            assert torch.equal(mine.half().float(), theirs)
    halves = VLV.from_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    assert {p.dtype for p in halves.caption_decoder.parameters()} == {torch.bfloat16}
    assert halves.caption_decoder.lm.model.rotary_emb.inv_freq.dtype == torch.float32
    with pytest.raises(ConfigError, match="no dtype 'half'; use one of float32"):
        model.save_pretrained(tmp_path / "wrong", dtype="half")


def test_each_component_opens_in_its_own_library(model: VLV, folder: Path) -> None:
    pairs = [
        (Florence2Model, "encoder", model.encoder.florence),
        (CLIPTextModel, "text_tower", model.text_tower.clip),
        (AutoencoderKL, "vae", model.decoder.vae),
        (UNet2DConditionModel, "unet", model.decoder.unet),
        (Qwen2ForCausalLM, "caption_decoder/language_model", model.caption_decoder.lm),
    ]
    for kind, name, ours in pairs:
        theirs = kind.from_pretrained(folder / name).state_dict()
        assert all(torch.equal(theirs[key], value) for key, value in ours.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(folder / "text_tower")
    assert tokenizer("a red cube") == model.text_tower.tokenizer("a red cube")


def test_captioning_loads_no_diffusion_and_reconstruction_no_language_model(
    folder: Path, images: list[Image.Image]
) -> None:
    vlv = VLV.from_pretrained(folder)
    assert vlv.loaded == []
    vlv.caption(images, max_new_tokens=4)
    assert vlv.loaded == ["encoder", "text_tower", "caption_decoder"]
    vlv = VLV.from_pretrained(folder)
    vlv.reconstruct(images, **DRAWING)
    assert vlv.loaded == ["encoder", "text_tower", "decoder"]
    vlv = VLV.from_pretrained(folder)
    vlv.draw(["a cube"], num_inference_steps=1)
    assert vlv.loaded == ["text_tower", "decoder"]


def test_captioning_reads_no_file_of_the_decoder(folder: Path, images: list[Image.Image]) -> None:
    for name in ("vae", "unet", "scheduler"):
        for path in (folder / name).iterdir():
            path.unlink()
    vlv = VLV.from_pretrained(folder)
    assert len(vlv.caption(images, max_new_tokens=4)) == 3
    with pytest.raises(CheckpointError, match=r"vae/config\.json is missing"):
        vlv.reconstruct(images, **DRAWING)


def _rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], str], None]) -> str:
    state = load_file(path)
    name = sorted(state)[len(state) // 2]
    change(state, name)
    save_file(state, path)
    return name


def _rename(state: dict[str, torch.Tensor], name: str) -> None:
    state["renamed." + name] = state.pop(name)


def _remove(state: dict[str, torch.Tensor], name: str) -> None:
    del state[name]


def _add(state: dict[str, torch.Tensor], name: str) -> None:
    state["additional." + name] = state[name].clone()


def _lengthen(state: dict[str, torch.Tensor], name: str) -> None:
    state[name] = torch.cat([state[name], state[name]])


def _widen(state: dict[str, torch.Tensor], name: str) -> None:
    state[name] = torch.cat([state[name], state[name]], dim=-1)


@pytest.mark.parametrize("file", WEIGHTS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_rename, "lacks the tensor '{name}' (and it holds the unknown tensor 'renamed.{name}')"),
        (_remove, "lacks the tensor '{name}'"),
        (_add, "unknown tensor 'additional.{name}'"),
        (_lengthen, "the tensor '{name}' with shape"),
        (_widen, "the tensor '{name}' with shape"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    folder: Path, file: str, change: Callable[[dict[str, torch.Tensor], str], None], said: str
) -> None:
    name = _rewrite(folder / file, change)
    vlv = VLV.from_pretrained(folder)
    with pytest.raises(CheckpointError) as error:
        getattr(vlv, WEIGHTS[file])
    assert said.format(name=name) in str(error.value)
    assert str(folder / file) in str(error.value)


@pytest.mark.parametrize("change", [_remove, _lengthen, _widen])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("encoder/vlv_head.safetensors", "phi.2.bias"),
        ("encoder/vlv_head.safetensors", "queries"),
        ("caption_decoder/psi.safetensors", "0.weight"),
    ],
)
def test_tensors_that_carry_a_box_s_own_sizes_are_checked_too(
    folder: Path, file: str, name: str, change: Callable[[dict[str, torch.Tensor], str], None]
) -> None:
    state = load_file(folder / file)
    change(state, name)
    save_file(state, folder / file)
    with pytest.raises(CheckpointError, match=f"the tensor '{name}'"):
        getattr(VLV.from_pretrained(folder), WEIGHTS[file])


@pytest.mark.parametrize("file", WEIGHTS)
def test_a_missing_or_damaged_file_is_named(folder: Path, file: str) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="is damaged") as error:
        getattr(VLV.from_pretrained(folder), WEIGHTS[file])
    assert str(path) in str(error.value)
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing") as error:
        getattr(VLV.from_pretrained(folder), WEIGHTS[file])
    assert str(path) in str(error.value)


def test_pickled_weights_are_never_read(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        _ = VLV.from_pretrained(folder).decoder


@pytest.mark.parametrize(
    ("file", "box"),
    [
        ("encoder/config.json", "encoder"),
        ("encoder/vlv_encoder.json", "encoder"),
        ("encoder/tokenizer.json", "encoder"),
        ("caption_decoder/vlv_caption_decoder.json", "caption_decoder"),
        ("text_tower/config.json", "text_tower"),
        ("unet/config.json", "decoder"),
        ("scheduler/scheduler_config.json", "decoder"),
        ("caption_decoder/language_model/config.json", "caption_decoder"),
        ("caption_decoder/language_model/tokenizer.json", "caption_decoder"),
    ],
)
def test_a_broken_description_is_named(folder: Path, file: str, box: str) -> None:
    (folder / file).write_text("{ not json")
    with pytest.raises(CheckpointError) as error:
        getattr(VLV.from_pretrained(folder), box)
    assert str((folder / file).parent) in str(error.value)
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match="is missing") as error:
        getattr(VLV.from_pretrained(folder), box)
    assert str(folder / file) in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "format_version"),
        ({"components": ["encoder", "decoder"]}, r"components\.1"),
        ({"licence": "mine"}, "licence"),
        ({"config": {"decoder_size": 64}}, r"config\.decoder_size"),
    ],
)
def test_a_wrong_manifest_is_named(folder: Path, change: dict[str, object], said: str) -> None:
    path = folder / "vlv.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said) as error:
        VLV.from_pretrained(folder)
    assert str(path) in str(error.value)


def test_parts_of_a_model_can_be_saved_and_put_together(
    model: VLV, tmp_path: Path, images: list[Image.Image]
) -> None:
    model.save_pretrained(tmp_path / "t2i", components=["text_tower", "vae", "unet", "scheduler"])
    model.save_pretrained(tmp_path / "eyes", components=["encoder"])
    assert sorted(path.name for path in (tmp_path / "eyes").iterdir()) == ["encoder", "vlv.json"]
    drawing, seeing = (VLV.from_pretrained(tmp_path / name) for name in ("t2i", "eyes"))
    with pytest.raises(CheckpointError, match="has no encoder; it holds text_tower"):
        drawing.reconstruct(images)
    with pytest.raises(CheckpointError, match="has no caption_decoder"):
        drawing.save_pretrained(tmp_path / "more", components=["caption_decoder"])
    together = VLV.from_boxes(
        encoder=seeing.encoder, text_tower=drawing.text_tower, decoder=drawing.decoder
    )
    assert together.device == model.device
    elsewhere = VLV.from_pretrained(tmp_path / "t2i").text_tower.to("meta")
    assert VLV.from_boxes(text_tower=elsewhere).device.type == "meta"
    first, second = (other.reconstruct(images, **DRAWING).images for other in (model, together))
    assert (_pixels(first) == _pixels(second)).all()
    with pytest.raises(CheckpointError, match="This model has no caption_decoder"):
        together.caption(images)


def test_a_save_that_fails_leaves_the_older_model(
    model: VLV, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model.caption_decoder.tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert os.listdir(folder.parent) == ["model"]


def test_a_model_that_cannot_be_put_in_place_leaves_the_older_one(
    model: VLV, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rename = Path.rename
    failed = []

    def failing(path: Path, target: Path) -> Path:
        if target == folder and not failed:
            failed.append(path)
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        model.save_pretrained(folder)
    assert failed
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert os.listdir(folder.parent) == ["model"]


def test_a_component_that_is_added_changes_no_second_name_of_the_manifest(
    folder: Path, tmp_path: Path
) -> None:
    """Folders of a run share files by hard links."""
    second = tmp_path / "second.json"
    os.link(folder / "vlv.json", second)
    before = second.read_bytes()
    note_component("verifier", folder)
    assert "verifier" in (folder / "vlv.json").read_text()
    assert second.read_bytes() == before


def test_a_folder_that_is_no_model_is_not_replaced(model: VLV, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    model.save_pretrained(tmp_path / "photos", components=["scheduler"])  # it is empty
    (tmp_path / "photos" / "vlv.json").unlink()
    with pytest.raises(ConfigError, match="is no model folder"):
        model.save_pretrained(tmp_path / "photos")


@pytest.mark.parametrize("name", [".git", "checkpoint-500"])
def test_what_else_lies_in_a_model_folder_is_not_lost(model: VLV, folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "HEAD").write_text("work")
    with pytest.raises(ConfigError, match=f"holds the folder {name}, .* would be lost"):
        model.save_pretrained(folder)
    (folder / name / "HEAD").rename(folder.parent / "HEAD")
    (folder / name).rmdir()
    model.save_pretrained(folder)


def test_what_a_killed_save_left_beside_other_things_goes_with_the_next_one(
    model: VLV, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    assert launcher.run(command).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    save_model(model, tmp_path, shared=True)
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "checkpoint-1").is_dir()


def test_ids_resolve_in_one_place(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.resolve(folder) == folder
    assert hub.EMBEDDED["vlv-mini"].parts[-3:] == ("vlv", "weights", "mini")
    monkeypatch.setitem(hub.EMBEDDED, "vlv-mini", folder)
    assert hub.resolve("vlv-mini") == folder
    with pytest.raises(ConfigError, match="no revisions"):
        hub.resolve("vlv-mini", revision="main")
    with pytest.raises(CheckpointError, match=r"holds no vlv\.json"):
        hub.resolve(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "./x",
        "../x",
        "/x/y",
        "~/x",
        "a/b/c",
        "x/",
        "a\\b",
        "C:\\models\\x",
        "x/m.safetensors",
    ],
)
def test_what_looks_like_a_path_is_not_asked_for_on_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", None)
    with pytest.raises(CheckpointError, match="There is no file or folder"):
        VLV.from_pretrained(name)
    with pytest.raises(CheckpointError, match="There is no folder"):
        VLV.from_components(encoder=name)


def test_a_folder_called_as_an_owner_makes_no_path_of_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Qwen").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for opened in (
        lambda: VLV.from_pretrained("Qwen/some-model"),
        lambda: VLV.from_components(encoder="Qwen/some-model"),
    ):
        with pytest.raises(CheckpointError, match=r"is no folder here and .* from the Hub"):
            opened()
    with pytest.raises(CheckpointError, match="There is no file or folder"):
        VLV.from_pretrained("./Qwen/some-model")
    (tmp_path / "Qwen" / "some-model").mkdir()
    with pytest.raises(CheckpointError, match=r"is not a VLV model.*that `save_pretrained` wrote"):
        VLV.from_pretrained("Qwen/some-model")
    (tmp_path / "Qwen" / "some-model" / "final").mkdir()
    (tmp_path / "Qwen" / "some-model" / "final" / "vlv.json").touch()
    with pytest.raises(CheckpointError, match="name Qwen/some-model/final, which holds one"):
        VLV.from_pretrained("Qwen/some-model")


def test_a_hub_that_is_not_to_be_asked_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"'someone/some-vlv-model'.*HF_HUB_OFFLINE is set"):
        VLV.from_pretrained("someone/some-vlv-model", revision="v1")


def test_a_hub_that_nobody_answers_at_is_said_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"'someone/some-vlv-model'.*connection"):
        VLV.from_pretrained("someone/some-vlv-model")


def test_a_mistyped_name_is_not_asked_for_on_the_hub() -> None:
    with pytest.raises(CheckpointError, match=r"no folder 'vlv-mimi'.*\(vlv-mini, "):
        VLV.from_pretrained("vlv-mimi")
