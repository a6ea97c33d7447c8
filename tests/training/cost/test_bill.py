"""What a bill counts on the meta device, against real boxes, real batches and a real run."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import Workshop
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from vlv.errors import ConfigError
from vlv.training.config import load_config
from vlv.training.cost.bill import Bill, make_bill
from vlv.training.cost.disk import count_disk
from vlv.training.cost.gpus import GPU, gpu_named, gpu_of_driver, gpus
from vlv.training.cost.text import bill_text
from vlv.training.cost.work import Work, count_work
from vlv.training.memory import GIB, PeakMemory, objective_memory
from vlv.training.meta_steps import encoder_objective, meta_boxes
from vlv.training.objectives.encoding import EncoderObjective
from vlv.training.registry import build_stage, stage_config
from vlv.training.stage import Stage
from vlv.training.stages import stage1, stage2
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.stage1 import Stage1Config
from vlv.training.stages.stage2 import Stage2Config

BATCH = 4
# Names of what is called of the objective's parts, as the library's counter has them.
CALLED = {
    "vision tower": "encoder.florence.vision_tower",
    "text tower": "text_tower",
    "U-Net": "decoder.unet",
    "psi": "caption_decoder.psi",
    "language model": "caption_decoder.lm",
}


@pytest.fixture(scope="module", params=["stage1", "stage2", "distillation"])
def real(request: pytest.FixtureRequest, workshop: Workshop) -> Stage:
    """A stage with real boxes and real samples."""
    stage, changes = {
        "stage1": ("stage1", {"noise_draws": 2}),
        "stage2": ("stage2", {}),
        "distillation": ("stage2", {"distillation_weight": 1.0}),
    }[request.param]
    output = str(workshop.root / f"bill-{request.param}")
    return build_stage(stage, workshop.config(stage, output_dir=output, **changes))


def samples(stage: Stage) -> dict[str, Any]:
    batch: dict[str, Any] = default_collate([stage.samples.item(i, i) for i in range(BATCH)])
    return batch


def objective_of(stage: Stage) -> EncoderObjective:
    assert isinstance(stage.objective, EncoderObjective)
    return stage.objective


@pytest.fixture(scope="module")
def work(real: Stage) -> Work:
    """What is counted of the stage, with checkpointing."""
    assert isinstance(real.config, EncoderStageConfig)
    config = real.config.model_copy(update={"gradient_checkpointing": True})
    batch = samples(real)
    tokens = int(batch["caption_length"].max()) if "caption_length" in batch else None
    return count_work(config, meta_boxes(config), 1, tokens)


def test_operations_are_those_of_a_real_step_part_by_part(real: Stage, work: Work) -> None:
    objective = objective_of(real)
    objective.train()
    with FlopCounterMode(display=False) as forward:
        loss, _ = objective(samples(real))
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    objective.zero_grad()
    counted = {
        name.partition(".")[2]: sum(operations.values())
        for name, operations in forward.get_flop_counts().items()
    }
    present = {part for part, path in CALLED.items() if path in counted}
    assert present == set(work.sample) - {"encoder"}
    # Captions enter the tower by another method, whose work the library counts for no module.
    by_name = present - {"text tower"} if "prompt_ids" in samples(real) else present
    for part in by_name:
        assert work.sample[part].forward * BATCH == counted[CALLED[part]], part
    parts = work.sample.values()
    assert sum(part.forward for part in parts) * BATCH == forward.get_total_flops()
    # The library counts the gradients of grouped convolutions as those of dense ones.
    counted_backward = sum(part.backward for part in parts) * BATCH
    assert 0.9 * backward.get_total_flops() < counted_backward <= backward.get_total_flops()


def test_a_frozen_part_passes_gradients_on_and_has_none(work: Work) -> None:
    tower, unet = work.sample["vision tower"], work.sample["U-Net"]
    # Each matrix once for its input and once for itself, but for the first one.
    assert 1.7 * tower.forward < tower.backward <= 2 * tower.forward
    assert unet.backward < 1.2 * unet.forward


def test_checkpointing_computes_activations_again(work: Work) -> None:
    tower, frozen = work.sample["vision tower"], work.sample["text tower"]
    assert 0.5 * tower.forward < tower.again <= tower.forward
    assert frozen.again == 0
    assert work.sample_flops == sum(part.once + part.again for part in work.sample.values())


def test_a_validation_is_what_the_objective_computes(real: Stage, work: Work) -> None:
    objective = objective_of(real)
    objective.eval()
    with torch.no_grad():
        objective.validate()  # the latents of held-out scenes are read once
        with FlopCounterMode(display=False) as counter:
            objective.validate()
    # Held-out captions are shorter than the longest one of the batch that was counted.
    assert counter.get_total_flops() == pytest.approx(work.validation, rel=0.15)
    if real.name == "stage1":
        assert counter.get_total_flops() == work.validation
    assert work.validations == 1 and work.first_validation == 0


def test_memory_is_that_of_a_real_step(real: Stage) -> None:
    """Weights to the byte, activations nearly."""
    config = real.config
    assert isinstance(config, Stage1Config | Stage2Config)
    counted = objective_memory(config, encoder_objective(config, meta_boxes(config).boxes))
    # With the libraries' fused attention, which a stage on the CPU replaces.
    objective: EncoderObjective = (
        stage1.make_objective(config, stage1.open_boxes(config))
        if isinstance(config, Stage1Config)
        else stage2.make_objective(config, stage2.open_boxes(config))
    )
    kept = [*objective.parameters(), *objective.buffers()]
    assert counted.trainable + counted.frozen == sum(x.nbytes for x in kept)
    objective.train()
    for parameter in objective.trainable().values():
        parameter.grad = torch.zeros_like(parameter)
    batch = samples(real)
    if isinstance(config, Stage2Config):
        # As long as the config allows, which is what is counted.
        batch["caption_ids"] = torch.zeros(BATCH, config.max_tokens, dtype=torch.long)
        batch["caption_length"] = torch.full((BATCH,), config.max_tokens)
    with PeakMemory() as memory:
        loss, _ = objective(batch)
        # What `loss.backward()` calls; in that the mode would be off.
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), True, True
        )
    assert memory.peak == pytest.approx(counted.activations, rel=0.1)


def test_disk_is_what_a_run_writes(workshop: Workshop, tmp_path: Path) -> None:
    changes = {
        "output_dir": str(tmp_path),
        "max_train_steps": 4,
        "checkpointing_steps": 1,
        "use_ema": True,
        "keep_best": "denoising_loss/z",
    }
    config, _ = stage_config("stage1", workshop.config("stage1", **changes))
    assert isinstance(config, EncoderStageConfig)
    disk = count_disk(config, encoder_objective(config, meta_boxes(config).boxes))
    workshop.run("stage1", **changes)
    folders = sorted(tmp_path.glob("checkpoint-*"))
    assert len(folders) == disk.kept == 2
    for folder in folders:
        best = folder / "best.safetensors"
        kept = disk.best if best.exists() else 0
        assert stored(folder) == pytest.approx(disk.checkpoint + kept, rel=0.01)
    assert stored(tmp_path / "final") == pytest.approx(disk.final, rel=0.01)
    whole = 2 * disk.checkpoint + disk.best + disk.final
    assert stored(tmp_path) == pytest.approx(whole, rel=0.01)
    assert disk.peak == whole - disk.final + max(disk.final, disk.checkpoint)
    assert disk.written == 4 * disk.checkpoint + disk.final


def stored(folder: Path) -> int:
    """Bytes of the tensors in files, which at tiny sizes are less than names and tokenizers; those
    of a file that has several names once.
    """
    total = 0
    files = {path.stat().st_ino: path for path in sorted(folder.rglob("*.safetensors"))}
    for path in files.values():
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        total += path.stat().st_size - 8 - header
    return total


@pytest.fixture(scope="module")
def counted(workshop: Workshop) -> Bill:
    """A bill without a GPU and a price, which do not change what is counted."""
    config, _ = stage_config("stage1", workshop.config("stage1", mixed_precision="bf16"))
    assert isinstance(config, EncoderStageConfig)
    return make_bill("stage1", config, processes=4)


SMALL = GPU(name="small", bf16=2, fp32=1, memory=1e-6, bandwidth=1, reports="small")


class TestBill:
    def test_time_and_money_follow_from_peak_share_and_price(self, counted: Bill) -> None:
        made = replace(counted, gpu=SMALL, price=3.0, mfu=0.25)
        work = made.work
        assert work.samples == 2 * 4 * 4  # steps, batch, processes
        assert made.times is not None
        assert made.times.training == pytest.approx(work.samples * work.sample_flops / 4 / 0.5e12)
        # While the first process validates, the others wait, and are paid for.
        assert made.times.validation == pytest.approx(work.validation_flops / 0.5e12)
        assert made.times.saving == pytest.approx(made.disk.written / 1e9)
        assert made.gpu_hours == pytest.approx(4 * made.times.total / 3600)
        assert made.usd == pytest.approx(3 * 4 * made.times.total / 3600)

    def test_no_money_without_a_price_and_no_time_without_a_pace(self, counted: Bill) -> None:
        assert replace(counted, gpu=SMALL).usd is None
        assert replace(counted, price=3.0).times is None
        assert replace(counted, price=3.0).usd is None

    def test_a_gpu_that_is_too_small_is_named_with_what_is_needed(self, counted: Bill) -> None:
        made = replace(counted, gpu=SMALL)
        needed = -(-made.memory.total // GIB)
        assert made.misfit == f"does not fit: needs {needed} GiB of 1e-06"
        assert f"4 x small: does not fit: needs {needed} GiB" in bill_text(made)
        assert replace(counted, gpu=gpu_named("h100")).misfit is None

    def test_what_is_assumed_is_said(self, counted: Bill) -> None:
        text = bill_text(replace(counted, gpu=gpu_named("h100"), mfu=0.5))
        assert "assumed     50% of 989 TFLOP/s, the GPU's peak in bfloat16 (--mfu)" in text
        assert "measured" not in text


class TestSizesOfModelsThatAreNotHere:
    BASE = ("max_train_steps=1", "train_batch_size=1", "learning_rate=1", "output_dir=out")

    def config(self, *fields: str, stage: str = "stage2") -> EncoderStageConfig:
        kind = {"stage1": Stage1Config, "stage2": Stage2Config}[stage]
        return load_config(kind, None, [*self.BASE, *fields])

    def test_those_of_the_bundled_model_in_the_embedded_world(self) -> None:
        found = meta_boxes(self.config("decoder=runs/none", stage="stage1"))
        assert found.assumed == (
            "runs/none cannot be opened here: counted with the sizes of the bundled vlv-mini",
        )

    def test_nothing_is_asked_of_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.config("initial_model=someone/model", "data.set=s", stage="stage1")
        with socket.create_server(("127.0.0.1", 0)) as hub:
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
            address = f"http://127.0.0.1:{hub.getsockname()[1]}"
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
            found = meta_boxes(config)
            hub.settimeout(0)
            with pytest.raises(BlockingIOError):
                hub.accept()
        assert found.assumed[0].startswith("someone/model cannot be opened here: counted with")

    def test_an_unknown_language_model_is_an_error(self) -> None:
        config = self.config("stage1=runs/none", "language_model=models/Strange-7B", "data.set=s")
        with pytest.raises(ConfigError, match=r"language_model: models/Strange-7B .* Qwen2.5-3B"):
            meta_boxes(config)

    def test_a_caption_decoder_of_no_known_size_is_an_error(self) -> None:
        config = self.config("stage1=runs/none", "caption_decoder=runs/other", "data.set=s")
        with pytest.raises(ConfigError, match="caption_decoder: runs/other cannot be opened"):
            meta_boxes(config)


def test_gpus_are_found_by_what_drivers_report() -> None:
    assert gpu_of_driver("NVIDIA H100 80GB HBM3") == gpu_named("h100")
    assert gpu_of_driver("NVIDIA L40S") == gpu_named("L40S")
    assert gpu_of_driver("NVIDIA L4") == gpu_named("l4")
    assert gpu_of_driver("NVIDIA A100-SXM4-40GB") == gpu_named("a100-40gb")
    assert gpu_of_driver("AMD EPYC") is None
    for gpu in gpus().values():
        assert gpu_of_driver(gpu.reports) == gpu
        assert gpu.bf16 >= gpu.fp32
    with pytest.raises(ConfigError, match="no GPU 'h10' is known; known are b200, h200, h100"):
        gpu_named("h10")
