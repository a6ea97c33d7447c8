"""`vlv cost`: from a YAML file to a bill."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.conftest import Workshop, workshop

from vlv.training.reproduce import configs_folder

__all__ = ["workshop"]


def test_a_bill_is_printed_with_what_is_assumed(
    vlv: Callable[..., Any], workshop: Workshop
) -> None:
    config = workshop.config("stage1", output_dir="nowhere")
    flags = ("--gpu", "rtx-4090", "--gpus", 2, "--price", 0.5)
    outcome = vlv("cost", config, "max_train_steps=100", *flags)
    assert outcome.code == 0
    for words in (
        "stage1: 100 steps of 8 samples (4 x 1 x 2: batch x micro-batches x processes), 800 in all",
        "vision tower",
        "GPU         2 x NVIDIA GeForce RTX 4090: fits: needs",
        "USD at 0.5 an hour of one GPU",
        # The config says mixed_precision: no.
        "assumed     40% of 82.6 TFLOP/s, the GPU's peak in float32 (--mfu)",
    ):
        assert words in outcome.out
    assert not Path("nowhere").exists()


@pytest.mark.slow
def test_steps_are_measured_and_extrapolated(
    vlv: Callable[..., Any], workshop: Workshop, tmp_path: Path
) -> None:
    """By its structure: how long a step takes is for benchmarks/cost_measure.py."""
    config = workshop.config("stage2", output_dir=str(tmp_path / "run"))
    steps = ("max_train_steps=1000", "validation_steps=400", "checkpointing_steps=500")
    # As of a run that goes on, whose checkpoints are elsewhere.
    steps = [*steps, "resume_from_checkpoint=checkpoint-5"]
    outcome = vlv("cost", config, *steps, "--measure", 2, "--price", 1, "--json")
    assert outcome.code == 0, outcome.err
    bill = json.loads(outcome.out)
    clock, cpu = bill["measured"]["clock"], bill["measured"]["cpu"]
    assert bill["measured"]["steps"] == 2
    assert bill["seconds"]["training"] == pytest.approx(1000 * clock["step"])
    # At 400, 800 and 1,000.
    validation = clock["first_validation"] + 2 * clock["validation"] + clock["last_validation"]
    assert bill["seconds"]["validation"] == pytest.approx(validation)
    assert bill["seconds"]["saving"] == pytest.approx(2 * clock["saving"] + clock["export"])
    assert bill["usd"] == pytest.approx(sum(list(bill["seconds"].values())[:3]) / 3600)
    assert cpu["step"] > 0 and bill["cpu_seconds"]["total"] > 1000 * cpu["step"]
    assert bill["stage"] == "stage2" and bill["gpu"] is None and bill["mfu"] is None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu", "h10"), "no GPU 'h10' is known; known are b200, h200"),
        (("--gpu", "h100", "--measure", "2"), "--measure runs on this machine, which computes on"),
        (("--encoder-image-size", "64", "--measure", "2"), "--measure runs the model as it is"),
        (("--stage", "vae"), "stage 'vae' has no bill; those that have are stage1 and stage2"),
        (("learning_rat=1",), "unknown key learning_rat (did you mean learning_rate?)"),
    ],
)
def test_wrong_use_is_one_sentence(
    vlv: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    outcome = vlv("cost", configs_folder() / "mini" / "stage1.yaml", *arguments)
    assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert outcome.err.count("\n") == 1


def test_a_config_of_no_stage_is_an_error(vlv: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text("max_train_steps: 5\n")
    outcome = vlv("cost", config)
    assert (outcome.code, "do not say which stage it is of; give --stage" in outcome.err) == (
        2,
        True,
    )
