"""What makes a step cheap changes nothing of what it computes: one reading of the device, compiled
blocks, pinned batches.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.conftest import Workshop
from torch.utils._python_dispatch import TorchDispatchMode

from vlv.training.batches import loader_settings
from vlv.training.checkpoint import list_checkpoints, read_checkpoint
from vlv.training.loop import train
from vlv.training.registry import build_stage, stage_config
from vlv.training.samples.source import to_device


class Readings(TorchDispatchMode):
    """Counts the numbers that a program reads out of tensors: on a GPU it would wait for each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_more_numbers_with_more_micro_batches(
    workshop: Workshop, tmp_path: Path
) -> None:
    counts = Counter[int]()
    for micro_batches in (1, 3):
        fields = {
            "output_dir": str(tmp_path / str(micro_batches)),
            "normalisation_count": 32,
            "train_batch_size": 2,
            "gradient_accumulation_steps": micro_batches,
            "validation_steps": 100,
            "validation_picture": False,
            # Its own process draws the batches.
            "dataloader_num_workers": 1,
        }
        stage = build_stage("vae", workshop.config("vae", **fields))
        with Readings() as readings:
            train(stage)
        counts[micro_batches] = readings.count
    assert counts[3] == counts[1]


def test_lengths_that_decide_shapes_stay_on_the_host() -> None:
    batch = {"caption_length": torch.tensor([3]), "caption_ids": torch.zeros(1, 4), "name": "a"}
    moved = to_device(batch, torch.device("meta"))
    assert moved["caption_length"].device.type == "cpu"
    assert moved["caption_ids"].device.type == "meta"
    assert moved["name"] == "a"


def test_batches_are_pinned_for_gpus_alone(workshop: Workshop) -> None:
    config, _ = stage_config("vae", workshop.config("vae", dataloader_num_workers=2))
    assert loader_settings(config, torch.device("cuda"))["pin_memory"] is True
    settings = loader_settings(config, torch.device("cpu"))
    assert settings["pin_memory"] is False
    assert settings["prefetch_factor"] == 2


@pytest.mark.slow
def test_compiled_blocks_compute_what_they_did(workshop: Workshop, tmp_path: Path) -> None:
    """Stage 2 trains every box; its checkpoint and its folder have the same names, and a run may
    go on without compiling.
    """

    def run(name: str, steps: int, **fields: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
        folder = tmp_path / name
        final = workshop.run(
            "stage2",
            output_dir=str(folder),
            max_train_steps=steps,
            lr_scheduler="constant",
            logging_steps=1,
            validation_steps=100,
            validation_picture=False,
            gradient_checkpointing=True,
            **fields,
        )
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        tensors, _ = read_checkpoint(list_checkpoints(folder)[-1])
        named = {f"{kind}/{k}": v for kind, group in tensors.items() for k, v in group.items()}
        for path in final.rglob("*.safetensors"):
            named |= {f"{path.relative_to(final)}/{k}": v for k, v in load_file(path).items()}
        return [line["loss"] for line in lines if "grad_norm" in line], named

    losses, plain = run("plain", 3)
    compiled_losses, compiled = run("compiled", 2, compile=True)
    assert compiled_losses == pytest.approx(losses[:2], rel=1e-4)
    assert compiled.keys() == plain.keys()
    resumed_losses, _ = run("compiled", 3)
    assert resumed_losses == pytest.approx(losses, rel=1e-3)
