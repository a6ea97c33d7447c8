"""`vlv reproduce`: which presets measure and which train; the report is tested in evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_unknown_presets_are_named_with_the_known_ones(
    vlv: Callable[..., Any], tmp_path: Path
) -> None:
    for preset in ("paper", tmp_path):
        ran = vlv("reproduce", "--preset", preset)
        assert ran.code == 2
        assert f"there is no preset '{preset}'; the presets are decoders/mini" in ran.err
        assert "full, quick (reports)" in ran.err


def test_training_has_no_output_folder(vlv: Callable[..., Any], tmp_path: Path) -> None:
    ran = vlv("reproduce", "--preset", "mini", "--output", tmp_path)
    assert ran.code == 2
    assert "--output works for reports only" in ran.err


def test_training_presets_still_train(
    vlv: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def train(preset: str) -> Path:
        trained.append(preset)
        return tmp_path / "model"

    monkeypatch.setattr("vlv.training.reproduce.reproduce", train)
    ran = vlv("reproduce", "--preset", "mini-gpu")
    assert (ran.code, ran.out, trained) == (0, f"{tmp_path / 'model'}\n", ["mini-gpu"])
