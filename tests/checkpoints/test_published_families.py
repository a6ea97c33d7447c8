"""Published text-to-image models of every family, as the library's own pipelines write them: opened
as parts of a VLV, drawing as the pipeline does, and with the schedule that they were trained on.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
from PIL import Image
from tests import launcher
from tests.checkpoints.hostile import edit
from tests.checkpoints.parts import florence_folder, language_model_folder, pipeline_folder
from tests.models.families.tiny_families import TINY_FAMILIES

from vlv.checkpoints import memory
from vlv.checkpoints.assemble import published_family
from vlv.checkpoints.diffusion import load_scheduler
from vlv.checkpoints.published import BaseModelRecord
from vlv.errors import CheckpointError, ConfigError
from vlv.models.config import FamilyName
from vlv.models.families import FAMILIES
from vlv.pipeline import VLV

IMAGE = Image.new("RGB", (50, 40), "red")
FLOWS: tuple[FamilyName, ...] = ("sd3", "sana", "flux")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("published-families")
    return {
        "encoder": florence_folder(base / "encoder"),
        "language_model": language_model_folder(base / "language_model"),
        **{name: pipeline_folder(base / name, name) for name in TINY_FAMILIES},
    }


def _open(published: dict[str, Path], decoder: Path, **options: int) -> VLV:
    torch.manual_seed(3)
    sizes = {"num_queries": 6, "decoder_image_size": 32, **options}
    return VLV.from_components(published["encoder"], decoder, published["language_model"], **sizes)


@pytest.mark.parametrize("family", list(TINY_FAMILIES))
def test_a_published_model_draws_as_its_own_pipeline_and_captions(
    published: dict[str, Path], family: FamilyName
) -> None:
    assert published_family(published[family]) == family
    model = _open(published, published[family])
    assert model.manifest.config.family == family
    assert len(model.caption(IMAGE, max_new_tokens=3)) == 1
    record = FAMILIES[family]
    without = [
        *record.optional,
        *(name.replace("text_encoder", "tokenizer") for name in record.optional),
    ]
    pipeline = getattr(diffusers, record.pipeline).from_pretrained(
        published[family], **dict.fromkeys(without)
    )
    pipeline.set_progress_bar_config(disable=True)
    # As the folders name them; of Stable Diffusion's sampler there is no short name.
    short = {"sana": "dpm++", "sd3": "euler"}.get(family, "ddim")
    if family in ("stable-diffusion", "sdxl"):
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    options = {"sana": {"use_resolution_binning": False}}.get(family, {})
    expected = pipeline(
        "a red cube",
        num_inference_steps=3,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(1),
        height=32,
        width=32,
        **options,
    ).images[0]
    found = model.draw(
        ["a red cube"], seeds=[1], num_inference_steps=3, guidance_scale=2.0, scheduler=short
    ).images[0]
    assert np.asarray(expected).std() > 3
    assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= 1


def _schedulers() -> dict[str, tuple[SchedulerMixin, bool]]:
    """By name: a scheduler, and whether it is of a flow."""
    flow = {"use_flow_sigmas": True, "flow_shift": 5.0, "prediction_type": "flow_prediction"}
    return {
        "euler": (EulerDiscreteScheduler(), False),
        "dpm++": (DPMSolverMultistepScheduler(), False),
        "unipc": (UniPCMultistepScheduler(), False),
        "flow euler": (FlowMatchEulerDiscreteScheduler(shift=5.0), True),
        "flow dpm++": (DPMSolverMultistepScheduler(**flow), True),
        "flow unipc": (UniPCMultistepScheduler(**flow), True),
    }


@pytest.mark.parametrize("name", list(_schedulers()))
@pytest.mark.parametrize("family", list(TINY_FAMILIES))
def test_a_schedule_of_another_kind_of_noise_is_refused(
    name: str, family: FamilyName, tmp_path: Path
) -> None:
    scheduler, is_flow = _schedulers()[name]
    scheduler.save_pretrained(tmp_path)
    if is_flow != (family in FLOWS):
        found, wanted = ("a flow", "DDPM noise") if is_flow else ("DDPM noise", "a flow")
        with pytest.raises(
            CheckpointError, match=f"is a schedule of {found}, and the model needs {wanted}"
        ) as refused:
            load_scheduler(tmp_path, family)
        assert type(scheduler).__name__ in str(refused.value)
        return
    loaded = load_scheduler(tmp_path, family)
    if is_flow:
        assert isinstance(loaded, FlowMatchEulerDiscreteScheduler)
        assert loaded.config.shift == 5.0  # where solvers call it flow_shift, too
    else:
        assert torch.equal(loaded.alphas_cumprod, scheduler.alphas_cumprod)


def test_a_network_whose_inputs_are_scaled_by_the_noise_is_refused(tmp_path: Path) -> None:
    """Such as Playground 2.5, whose pipeline is that of SDXL."""
    EDMEulerScheduler().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="EDMEulerScheduler is of a network whose inputs"):
        load_scheduler(tmp_path, "sdxl")


def test_latents_that_are_normalised_by_channel_are_refused(
    published: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(published["sdxl"], tmp_path / "sdxl"))
    edit("vae/config.json", "latents_mean", [0.1] * 4)(folder)
    with pytest.raises(ConfigError, match="VAE's config has latents_mean"):
        _open(published, folder)


def test_a_text_encoder_or_denoiser_of_another_family_is_named(
    published: dict[str, Path], tmp_path: Path
) -> None:
    for part, words in (
        ("text_encoder", "is of a clip_text_model, where a gemma2 is needed"),
        ("transformer", "is of a SD3Transformer2DModel, where a SanaTransformer2DModel is needed"),
        ("vae", "is of a AutoencoderKL, where a AutoencoderDC is needed"),
    ):
        folder = Path(shutil.copytree(published["sana"], tmp_path / part))
        shutil.rmtree(folder / part)
        shutil.copytree(published["sd3"] / part, folder / part)
        with pytest.raises(CheckpointError, match=words):
            _open(published, folder)


@pytest.mark.parametrize(
    ("family", "file", "key", "value", "words"),
    [
        ("sana", "transformer", "num_layers", 10**6, "num_layers is 1000000, beyond"),
        ("sana", "transformer", "num_attention_heads", 0, "must be above 0"),
        ("sana", "transformer", "cross_attention_dim", 24, "is not 2 heads of 8"),
        ("sana", "transformer", "guidance_embeds", True, "Sana Sprint, which is not supported"),
        ("sana", "transformer", "_class_name", "Evil", "_class_name is 'Evil', where one of"),
        ("sana", "transformer", "caption_channels", 10**9, "beyond 400,000"),
        ("sana", "transformer", "timestep_scale", 0, "below"),
        ("sana", "vae", "encoder_block_out_channels", [8] * 9, "not a list of at most 8"),
        ("sana", "vae", "encoder_layers_per_block", [10**9] * 4, "encoder_layers_per_block"),
        ("sana", "vae", "attention_head_dim", 3, "does not divide 8"),
        ("sana", "text_encoder", "num_hidden_layers", 10**7, "num_hidden_layers is 10000000"),
        ("sana", "text_encoder", "num_key_value_heads", 0, "must be above 0"),
        ("sana", "text_encoder", "head_dim", 7, "must be even"),
        ("sana", "text_encoder", "query_pre_attn_scalar", 0, "query_pre_attn_scalar is 0"),
        ("sana", "text_encoder", "layer_types", ["full_attention"] * 9, "9 entries for 2 layers"),
        ("sana", "text_encoder", "model_type", "whisper", "model_type is 'whisper'"),
        ("sana", "text_encoder", "attn_implementation", "owner/kernel", "eager and sdpa"),
        ("sana", "scheduler", "flow_shift", 0, "flow_shift is 0, below"),
        ("sd3", "transformer", "pos_embed_max_size", 4096, "lacks weights"),
        ("sd3", "transformer", "pos_embed_max_size", 5000, "beyond 4,096"),
        ("sd3", "transformer", "joint_attention_dim", 0, "must be above 0"),
        ("sd3", "text_encoder_2", "num_attention_heads", 3, "does not divide"),
        ("sd3", "scheduler", "shift", 0, "shift is 0, below"),
    ],
)
def test_hostile_configs_of_families_are_refused(
    published: dict[str, Path],
    family: str,
    file: str,
    key: str,
    value: object,
    words: str,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(published[family], tmp_path / "decoder"))
    name = "scheduler_config.json" if file == "scheduler" else "config.json"
    edit(f"{file}/{name}", key, value)(folder)
    with pytest.raises(CheckpointError, match=words):
        _open(published, folder)


def test_tables_that_files_hold_may_be_large(
    published: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlv.checkpoints.components._BUFFER_BYTES", 2000)
    model = _open(published, published["sd3"])
    assert model.decoder.transformer.pos_embed.pos_embed.nbytes > 2000


def test_the_memory_of_published_parts_is_reported_before_they_are_read(
    published: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {
        "encoder": published["encoder"],
        "decoder": published["sana"],
        "language_model": published["language_model"],
    }
    assert memory.published_memory(folders, "sana", torch.float32) is None  # too little
    monkeypatch.setattr(memory, "REPORTED_FROM", 1)
    model = _open(published, published["sana"])
    assert "needs about" in capsys.readouterr().err
    line = memory.published_memory(folders, "sana", torch.float32)
    assert line is not None and "encoder" in line and "decoder" in line
    assert model.can_draw


GATED = "stabilityai/stable-diffusion-3.5-medium"


@pytest.mark.parametrize("answer", ["gated", "refused", "missing"])
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_a_gate_is_reported_with_where_to_open_it(
    answer: str, known: bool, published: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> None:
        response = SimpleNamespace(
            status_code=404 if answer == "missing" else 403, headers={}, request=None
        )
        kind = GatedRepoError if answer == "gated" else HfHubHTTPError
        raise kind("no", response=response)

    gate = "needs a licence accepted on the Hub" if known else None
    monkeypatch.setattr("vlv.checkpoints.assemble.gate_of", lambda *_: gate)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: object())
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    reported = answer == "gated" or (known and answer == "refused")
    words = (
        f"decoder '{GATED}' needs a licence accepted on the Hub: https://huggingface.co/{GATED};"
        if reported
        else "could not be fetched from the Hub"
    )
    with pytest.raises(CheckpointError, match=words):
        VLV.from_components(published["encoder"], GATED, published["language_model"])


def test_gates_of_the_table_are_sentences_without_their_subject() -> None:
    record = BaseModelRecord(licence="x", revision=None, gate="needs a licence", config={})
    assert record.gate and record.gate.startswith("needs")


STAGE = """\
output_dir: {out}
initial_model: {model}
data: {{count: 8, workers: 1}}
validation_count: 2
max_train_steps: 2
train_batch_size: 2
learning_rate: 1.0e-4
checkpointing_steps: 2
validation_steps: 2
validation_picture: false
report_to: none
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", list(TINY_FAMILIES))
def test_by_command_from_published_parts_to_captions_and_pictures(
    published: dict[str, Path], family: str, tmp_path: Path
) -> None:
    IMAGE.save(tmp_path / "red.png")

    def vlv(*words: object, may: int = 0) -> str:
        ran = launcher.run(["vlv", *map(str, words)], capture_output=True, text=True, cwd=tmp_path)
        assert ran.returncode in (0, may), ran.stderr
        return str(ran.stdout)

    names = ["--encoder", published["encoder"], "--decoder", published[family]]
    names += ["--language-model", published["language_model"], "--num-queries", 6]
    sizes = ["--decoder-image-size", 64]
    reported = json.loads(vlv("assemble", "untrained", *names, *sizes, "--json"))
    assert reported["family"] == family
    (tmp_path / "stage1.yaml").write_text(STAGE.format(out="run", model="untrained"))
    vlv("train", "stage1", "--config", "stage1.yaml")
    vlv("export", "run", "run", "--out", "exported")
    before, after = (VLV.from_pretrained(tmp_path / name) for name in ("untrained", "exported"))
    assert not torch.equal(before.encode(IMAGE), after.encode(IMAGE))
    # Stage 1 has no caption decoder; an untrained one may end its caption at once.
    said = json.loads(
        vlv("caption", "red.png", "--model", "untrained", "--max-new-tokens", 12, "--json", may=1)
    )
    assert said.get("tokens") or "empty caption" in said["message"]
    vlv("reconstruct", "red.png", "--model", "exported", "--num-inference-steps", 2, "--out", "x")
    drawn = list((tmp_path / "x").rglob("*.png"))
    assert drawn and Image.open(drawn[0]).size[1] >= 64
