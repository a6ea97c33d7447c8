"""An untrained VLV out of published parts: tiny ones, in the layouts of the Hub's repositories."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.checkpoints.parts import (
    LANGUAGE_MODELS,
    diffusion_folder,
    florence_folder,
    language_model_folder,
)
from transformers import AutoModelForCausalLM, CLIPTextModel, Florence2ForConditionalGeneration

from vlv.errors import CheckpointError, ConfigError
from vlv.pipeline import VLV

IMAGE = Image.new("RGB", (50, 40), "red")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("published")
    found = {
        "florence": florence_folder(folder / "florence"),
        "diffusion": diffusion_folder(folder / "diffusion"),
        "wide": diffusion_folder(folder / "wide", width=32, prediction_type="v_prediction"),
    }
    return found | {kind: language_model_folder(folder / kind, kind) for kind in LANGUAGE_MODELS}


def build(parts: dict[str, Path], diffusion: str = "diffusion", kind: str = "qwen2") -> VLV:
    torch.manual_seed(3)
    return VLV.from_components(
        parts["florence"], parts[diffusion], parts[kind], num_queries=6, decoder_image_size=32
    )


@pytest.mark.parametrize("kind", list(LANGUAGE_MODELS))
@pytest.mark.parametrize("diffusion", ["diffusion", "wide"])
def test_a_model_of_any_parts_runs_and_is_saved(
    parts: dict[str, Path], diffusion: str, kind: str, tmp_path: Path
) -> None:
    model = build(parts, diffusion, kind)
    model.save_pretrained(tmp_path / "model")
    again = VLV.from_pretrained(tmp_path / "model")
    z = model.encode(IMAGE)
    assert z.shape == (1, 6, {"diffusion": 16, "wide": 32}[diffusion])
    assert torch.equal(again.encode(IMAGE), z)
    assert again.caption(IMAGE, max_new_tokens=4) == model.caption(IMAGE, max_new_tokens=4)
    pictures = [
        m.reconstruct(z, seeds=[0], num_inference_steps=2).images[0] for m in (model, again)
    ]
    assert pictures[0].size == (32, 32)
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert again.caption_decoder.lm.config.model_type == kind


def test_the_parts_keep_their_published_weights(parts: dict[str, Path]) -> None:
    model = build(parts)
    florence = Florence2ForConditionalGeneration.from_pretrained(parts["florence"]).model
    clip = CLIPTextModel.from_pretrained(parts["diffusion"] / "text_encoder")
    lm = AutoModelForCausalLM.from_pretrained(parts["qwen2"])
    for ours, theirs in (
        (model.encoder.florence, florence),
        (model.text_tower.clip, clip),
        (model.caption_decoder.lm, lm),
    ):
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(x, expected[name]) for name, x in ours.state_dict().items())


def test_a_model_of_half_precision_runs(parts: dict[str, Path]) -> None:
    model = VLV.from_components(
        parts["florence"],
        parts["diffusion"],
        parts["qwen2"],
        num_queries=6,
        decoder_image_size=32,
        dtype="bfloat16",
    )
    assert model.encode(IMAGE).dtype == torch.bfloat16
    assert len(model.caption(IMAGE, max_new_tokens=4)) == 1
    assert model.reconstruct(IMAGE, seeds=[0], num_inference_steps=2).images[0].size == (32, 32)


def test_the_noise_schedule_is_the_decoders_own(parts: dict[str, Path]) -> None:
    scheduler = build(parts, "wide").decoder.scheduler
    assert scheduler.config.prediction_type == "v_prediction"
    assert not scheduler.config.clip_sample  # the published file does not mention it


def test_preprocessing_is_florences_own_after_the_papers_crop(parts: dict[str, Path]) -> None:
    settings = build(parts).encoder.settings
    assert (settings.image_size, settings.crop_size) == (32, 32)
    assert settings.image_mean == (0.485, 0.456, 0.406)


def test_a_checkpoint_says_what_it_was_made_of(parts: dict[str, Path], tmp_path: Path) -> None:
    build(parts).save_pretrained(tmp_path / "model")
    reported = json.loads((tmp_path / "model" / "vlv.json").read_text())["provenance"]["parts"]
    assert reported["encoder"] == {
        "id": str(parts["florence"]),
        "revision": None,
        "licence": "as stated where the part was published",
    }
    assert set(reported) == {"encoder", "decoder", "language_model"}


@pytest.mark.parametrize("fault", ["lacks", "misshapes", "has the unknown"])
def test_a_tensor_that_does_not_fit_is_named(
    parts: dict[str, Path], fault: str, tmp_path: Path
) -> None:
    folder = tmp_path / "florence"
    florence_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.multi_modal_projector.image_proj_norm.weight"
    if fault == "lacks":
        del tensors[name]
    elif fault == "misshapes":
        tensors[name] = torch.zeros(7)
    else:
        tensors["model.extra.weight"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=fault) as caught:
        VLV.from_components(folder, parts["diffusion"], parts["qwen2"])
    assert ("extra" if fault == "has the unknown" else "image_proj_norm") in str(caught.value)


def test_a_missing_part_is_named(parts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="text_encoder is missing"):
        VLV.from_components(parts["florence"], tmp_path, parts["qwen2"])
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        VLV.from_components(parts["florence"], parts["diffusion"], tmp_path)
    with pytest.raises(CheckpointError, match="could not be fetched"):
        VLV.from_components("no-one/nothing", parts["diffusion"], parts["qwen2"])


def test_florence_that_needs_code_of_its_own_is_refused(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    folder = florence_folder(tmp_path / "florence")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_florence2.Florence2Config"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"code of its own \(auto_map\), which is never run"):
        VLV.from_components(folder, parts["diffusion"], parts["qwen2"])


def test_revisions_are_of_parts_on_the_hub(parts: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="'vae'; the parts are encoder, decoder"):
        VLV.from_components(parts["florence"], revision={"vae": "main"})
    with pytest.raises(ConfigError, match="has no revisions; leave out 'main'"):
        VLV.from_components(parts["florence"], revision={"encoder": "main"})


def test_a_pipeline_of_no_supported_family_is_named(parts: dict[str, Path], tmp_path: Path) -> None:
    decoder = shutil.copytree(parts["diffusion"], tmp_path / "decoder")
    (decoder / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    with pytest.raises(
        CheckpointError, match=r"PixArtAlphaPipeline is of no supported family.*SanaPipeline"
    ):
        VLV.from_components(parts["florence"], decoder, parts["qwen2"])
