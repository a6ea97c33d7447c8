"""Model folders of strangers: no code of theirs runs, and each is refused in one sentence, soon and
within little memory; sound ones open.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests import launcher
from tests.checkpoints.hostile import LM, OPEN_ALL, edit, hostile_folders, put
from tests.checkpoints.parts import diffusion_folder, florence_folder, language_model_folder

from vlv.checkpoints.network_bounds import network_fault
from vlv.checkpoints.published import known_base_models
from vlv.errors import CheckpointError
from vlv.models.families import FAMILIES
from vlv.pipeline import VLV

# Seconds and bytes that opening may take.
SECONDS, MEMORY = 10, 1_000_000_000


@pytest.fixture(scope="module")
def sound(template: VLV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "model"
    template.save_pretrained(folder)
    return folder


def linked(sound: Path, folder: Path) -> Path:
    """A copy that shares its files."""
    return Path(shutil.copytree(sound, folder, copy_function=os.link))


def test_every_hostile_folder_is_refused_in_a_sentence(sound: Path, tmp_path: Path) -> None:
    evil = tmp_path / "code-ran"
    table = hostile_folders(str(evil), sound)
    assert len(table) >= 60
    names = {}
    for number, (name, damage) in enumerate(table.items()):
        folder = linked(sound, tmp_path / str(number))
        damage(folder)
        names[str(folder)] = name
    found = opened(list(names), sound, tmp_path)
    for folder, (kind, message, seconds, _) in found["reported"].items():
        reported = f"{names[folder]}: {kind}, {seconds:.1f} s, {message}"
        assert kind == "CheckpointError", reported
        assert "\n" not in message and 10 < len(message) < 800, reported
        assert seconds < SECONDS, reported
    assert found["memory"] < MEMORY
    assert not evil.exists()


def opened(folders: list[str], sound: Path, scratch: Path) -> dict[str, Any]:
    """What became of opening each, in one process, and how much memory it took at most."""
    listed = scratch / "list"
    listed.write_text("\n".join(folders))
    ran = launcher.run(
        [sys.executable, "-c", OPEN_ALL, listed, sound],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert list(found["reported"]) == folders
    return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("parts")
    return {
        "encoder": florence_folder(base / "encoder"),
        "decoder": diffusion_folder(base / "decoder"),
        "language_model": language_model_folder(base / "language_model"),
    }


@pytest.mark.parametrize(
    ("role", "damage"),
    [
        ("encoder", edit("config.json", "auto_map", {"AutoConfig": "c.C"})),
        ("encoder", edit("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["t.T", None]})),
        ("encoder", edit("preprocessor_config.json", "auto_map", {"AutoProcessor": "p.P"})),
        ("encoder", edit("preprocessor_config.json", "size", {"height": 10**9})),
        ("encoder", edit("preprocessor_config.json", "image_mean", "grey")),
        ("encoder", put("processing.py", "")),
        ("encoder", edit("config.json", "text_config.d_model", 4096)),
        ("decoder", put("model_index.json", '{"_class_name": ["evil", "Evil"]}')),
        ("decoder", put("model_index.json", '{"unet": ["evil", "UNet2DConditionModel"]}')),
        ("decoder", edit("unet/config.json", "_class_name", "Evil")),
        ("decoder", edit("vae/config.json", "layers_per_block", 10**7)),
        ("decoder", edit("scheduler/scheduler_config.json", "num_train_timesteps", 10**9)),
        ("decoder", edit("text_encoder/config.json", "hidden_size", 65_536)),
        ("decoder", put("tokenizer/vocab.json", '{"a": ' + "9" * 5000 + "}")),
        ("language_model", edit("config.json", "attn_implementation", "owner/kernel")),
        ("language_model", edit("config.json", "num_hidden_layers", 500)),
        ("language_model", edit("model.safetensors.index.json", "weight_map", {"a": "../x"})),
        ("language_model", put("adapter_config.json", "{}")),
    ],
)
def test_hostile_parts_are_refused(
    role: str, damage: Callable[[Path], Any], parts: dict[str, Path], tmp_path: Path
) -> None:
    folder = linked(parts[role], tmp_path / role)
    damage(folder)
    with pytest.raises(CheckpointError) as refused:
        VLV.from_components(**{**parts, role: folder})
    assert str(folder) in str(refused.value)


def test_links_of_the_hubs_cache_are_no_links_to_outside(sound: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in sound.rglob("*") if p.is_file())):
        blob, link = repository / "blobs" / str(number), snapshot / path.relative_to(sound)
        os.link(path, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (tmp_path / "named").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "named"):
        model = VLV.from_pretrained(folder)
        assert len(model.caption(Image.new("RGB", (40, 30)), max_new_tokens=2)) == 1


def test_an_attention_of_our_list_may_be_named(sound: Path, tmp_path: Path) -> None:
    folder = linked(sound, tmp_path / "model")
    edit(LM, "attn_implementation", "eager")(folder)
    assert VLV.from_pretrained(folder).caption_decoder.lm.config._attn_implementation == "eager"


def test_what_sound_folders_hold_beside_a_model_is_no_fault(sound: Path, tmp_path: Path) -> None:
    folder = linked(sound, tmp_path / "model")
    for name, text in (
        ("trainer_state.json", json.dumps({"log_history": [0.5] * 500_000})),
        ("modules.json", "[]"),
        ("all_results.json", "[1, 2]"),
    ):
        (folder / name).write_text(text)
        ((folder / LM).parent / name).write_text(text)
    config = json.loads((folder / LM).read_text())
    put(LM, json.dumps(config | {"transformers.js_config": {"dtype": "q4"}}))(folder)
    edit("scheduler/scheduler_config.json", "lambda_min_clipped", -math.inf)(folder)
    assert VLV.from_pretrained(folder).caption_decoder.lm is not None
    assert VLV.from_pretrained(folder).decoder.scheduler is not None


def test_published_sizes_are_within_the_bounds() -> None:
    for part in known_base_models("language_model").values():
        assert network_fault(part.config, "language_model") is None
    for part in known_base_models("encoder").values():
        assert network_fault(part.config, "encoder") is None
    for part in known_base_models("decoder").values():
        record = FAMILIES[part.family]
        for kind in record.components:
            assert network_fault(part.config[kind], kind) is None
        tower = part.config["text_tower"]
        for name in record.text_encoders:
            config = tower if name == "text_tower" else tower.get(name, {})
            assert network_fault(config, name) is None


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (
            "unet",  # of Stable Diffusion XL
            {
                "_class_name": "UNet2DConditionModel",
                "addition_embed_type": "text_time",
                "addition_embed_type_num_heads": 64,
                "addition_time_embed_dim": 256,
                "attention_head_dim": [5, 10, 20],
                "block_out_channels": [320, 640, 1280],
                "cross_attention_dim": 2048,
                "layers_per_block": 2,
                "projection_class_embeddings_input_dim": 2816,
                "sample_size": 128,
                "transformer_layers_per_block": [1, 2, 10],
                "use_linear_projection": True,
            },
        ),
        (
            "scheduler",
            {
                "_class_name": "PNDMScheduler",
                "beta_end": 0.012,
                "beta_start": 0.00085,
                "num_train_timesteps": 1000,
                "set_alpha_to_one": False,
                "skip_prk_steps": True,
                "steps_offset": 1,
                "trained_betas": None,
            },
        ),
        (
            "language_model",  # of 405 billion parameters, in 4 bits
            {
                "model_type": "llama",
                "bos_token_id": 128000,
                "eos_token_id": [128001, 128008, 128009],
                "hidden_size": 16384,
                "intermediate_size": 53248,
                "max_position_embeddings": 131072,
                "num_attention_heads": 128,
                "num_hidden_layers": 126,
                "num_key_value_heads": 8,
                "quantization_config": {
                    "bnb_4bit_compute_dtype": "bfloat16",
                    "llm_int8_threshold": 6.0,
                    "load_in_4bit": True,
                    "quant_method": "bitsandbytes",
                },
                "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192},
                "rope_theta": 500000.0,
                "torch_dtype": "bfloat16",
                "vocab_size": 128256,
            },
        ),
    ],
)
def test_large_configs_are_within_the_bounds(kind: str, config: dict[str, Any]) -> None:
    assert network_fault(config, kind) is None
