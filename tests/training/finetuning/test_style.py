"""The proof of fine-tuning on the mini, with defaults only: 64 pairs in a marked style, killed
three times.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.finetuning.style import held_out, precision, styled_share, write_pairs
from tests.training.finetuning.test_finetune import adapter_bytes, kill_at_checkpoint

from vlv.checkpoints.hub import EMBEDDED
from vlv.evaluation.results import folder_hash
from vlv.pipeline import VLV


@pytest.mark.slow
def test_64_pairs_teach_a_style_and_leave_facts_and_base_alone(
    vlv: Callable[..., Any], tmp_path: Path
) -> None:
    pairs, base = write_pairs(tmp_path / "pairs", 64), folder_hash(EMBEDDED["vlv-mini"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = ["finetune", "vlv-mini", str(pairs), "--out"]
    assert vlv(*command, whole).code == 0
    for _ in range(3):
        kill_at_checkpoint([*command, str(killed)], killed, signal.SIGKILL)
    assert vlv(*command, killed).code == 0
    assert adapter_bytes(killed) == adapter_bytes(whole)
    assert folder_hash(EMBEDDED["vlv-mini"]) == base
    scenes, pictures = held_out(200)
    before, after = (
        VLV.from_pretrained(model).caption(pictures, num_beams=1) for model in ("vlv-mini", whole)
    )
    share, was, now = styled_share(after), precision(before, scenes), precision(after, scenes)
    print(f"styled: {share:.1%} of 200 captions; precision {was:.3f}, then {now:.3f}")
    assert styled_share(before) == 0
    assert share >= 0.95
    assert now >= was - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantized_mini_learns_the_style_on_the_cpu(
    vlv: Callable[..., Any], tmp_path: Path, bits: str
) -> None:
    pairs, out = write_pairs(tmp_path / "pairs", 64), tmp_path / "mine"
    quantized = ("--quantization", bits, "--device", "cpu")
    assert vlv("finetune", "vlv-mini", str(pairs), "--out", out, *quantized).code == 0
    scenes, pictures = held_out(100)
    before, after = (
        VLV.from_pretrained(model).caption(pictures, num_beams=1) for model in ("vlv-mini", out)
    )
    share, was, now = styled_share(after), precision(before, scenes), precision(after, scenes)
    print(f"styled, {bits}: {share:.1%} of 100 captions; precision {was:.3f}, then {now:.3f}")
    assert share >= 0.95
    assert now >= was - 0.02
