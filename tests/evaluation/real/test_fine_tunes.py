"""A fine-tune that is trained again in its place is another model, whatever its base is."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.shared import shared_folder
from tests.tiny import save_pictures
from tests.training.finetuning.conftest import tune

from vlv.evaluation.metrics.image_networks import open_network
from vlv.evaluation.real.captioners import Generation, open_captioner
from vlv.evaluation.real.images.drawers import open_drawer
from vlv.evaluation.results import folder_hash, model_hash, opened_hash
from vlv.inference.loading import open_model

Run = Callable[..., Any]


@pytest.fixture
def mine(tiny_model_dir: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tune of the tiny model."""
    made = shared_folder(tmp_path_factory, "tuned", partial(tune, tiny_model_dir))
    return Path(shutil.copytree(made / "mine", tmp_path / "mine"))


def train_again(folder: Path) -> None:
    """Give a fine-tune other weights, as another training would."""
    file = folder / "psi.safetensors"
    weights = {name: value + 0.5 for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


def test_captions_of_another_training_are_not_mixed(vlv: Run, mine: Path, tmp_path: Path) -> None:
    learned = save_pictures(tmp_path / "pictures")
    for file in sorted(learned.iterdir()):
        file.with_suffix(".txt").write_text("A red cube stands on the left.")
    pairs = ("eval", "pairs", learned, "--model", f"mine={mine}", "--out", tmp_path / "pairs")
    drawn = ("eval", "reconstruction", learned, "--model", f"mine={mine}", "--dino", "none")
    drawn += ("--lpips", "none", "--num-inference-steps", 1, "--out", tmp_path / "drawn")
    drawn += ("--features", "none", "--resamples", 2)
    for command in (pairs, drawn, pairs, drawn):  # as often as one likes
        ran = vlv(*command)
        assert ran.code == 0, ran.err
    train_again(mine)
    for command in (pairs, drawn):
        ran = vlv(*command)
        assert ran.code == 2 and "sha256" in ran.err, ran.err


def test_a_hash_covers_the_fine_tune_and_its_base_and_no_run(
    mine: Path, tiny_model_dir: Path
) -> None:
    def found() -> dict[str, Any]:
        captioner = open_captioner(str(mine), Generation(), device="cpu", dtype=None)
        drawer = open_drawer(str(mine), steps=1, device="cpu")
        hashes = {captioner.about["sha256"], drawer.about["sha256"]}
        assert hashes == {opened_hash(open_model(str(mine), device="cpu"))}
        return captioner.about

    before = found()
    assert before["sha256"] != model_hash(tiny_model_dir)
    shutil.rmtree(mine / "run")
    assert found() == before
    train_again(mine)
    assert found()["sha256"] != before["sha256"]
    # The hash of what is no fine-tune is that of its folder.
    base = open_model(str(tiny_model_dir), device="cpu")
    assert opened_hash(base) == model_hash(tiny_model_dir)
    assert opened_hash(base, folder_hash) == folder_hash(tiny_model_dir)


def test_features_of_an_encoder_depend_on_how_a_fine_tune_crops(
    mine: Path, tiny_model_dir: Path
) -> None:
    base, tuned = (open_network(str(folder), "cpu") for folder in (tiny_model_dir, mine))
    assert set(base.about) == {"network", "sha256"}
    assert tuned.about["sha256"] == base.about["sha256"]
    assert set(tuned.about) - set(base.about) == {"crop_size"}
