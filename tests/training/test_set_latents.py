"""Latents of sets on disk: made by `vlv data latents`, whatever kills it, and learned from as those
that the VAE computes in every step.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from filelock import FileLock
from tests.launcher import Popen, run
from tests.tiny import TINY_MODEL
from tests.training.conftest import Workshop
from tests.training.image_folders import COUNT, REFUSED, sample, write_images
from torch.utils.data import default_collate

from vlv import progress
from vlv.checkpoints.opening import load_model, save_model
from vlv.cli.data.latents import latents
from vlv.data.image_sets import ShardImages, open_image_set
from vlv.errors import ConfigError, DatasetError
from vlv.models.preprocessing import decoder_pixels
from vlv.training import latent_caching
from vlv.training.loop import train
from vlv.training.registry import build_stage
from vlv.training.samples.data_order import NEW_RUNS, sample_index
from vlv.training.samples.set_latents import CacheContents, CacheKey, SetLatents
from vlv.training.stage import Stage

HELD_OUT = 4
TRAINED = COUNT - HELD_OUT


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "set", "webdataset")


@pytest.fixture(scope="module")
def caching(workshop: Workshop, images: Path) -> Callable[..., list[str]]:
    """The words of a command that caches the latents of the set, or of another one."""

    def words(out: Path, *options: str, data: Path = images) -> list[str]:
        command = [sys.executable, "-m", "vlv.cli", "data", "latents", str(data), "--out", str(out)]
        model = str(workshop.root / "s1" / "final")
        index = str(workshop.root / "indexes")
        return [*command, "--model", model, "--index-folder", index, "--shard-size", "7", *options]

    return words


@pytest.fixture(scope="module")
def caches(
    caching: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[bool, Path]:
    """A cache without pictures, and one with them."""
    folder = tmp_path_factory.mktemp("caches")
    made = {}
    for pictures in (False, True):
        out = folder / f"pictures-{pictures}"
        options = ("--batch-size", "5", *(["--pictures"] if pictures else []))
        ended = run(caching(out, *options), capture_output=True, text=True, check=False)
        assert ended.returncode == 1, ended.stderr  # some images are refused, and named
        for number, reason in REFUSED.items():
            assert f"{reason}: {sample(number).file_name}" in ended.stderr
        assert "24 of 24 images to do" in ended.stderr
        made[pictures] = out
    return made


def stage1(workshop: Workshop, images: Path, tmp_path: Path, **changes: Any) -> Stage:
    initial = str(workshop.root / "s1" / "final")
    own = {"decoder": None, "initial_model": initial}
    return built("stage1", workshop, images, tmp_path, **{**own, **changes})


def built(name: str, workshop: Workshop, images: Path, tmp_path: Path, **changes: Any) -> Stage:
    data = {"set": str(images), "index_folder": str(workshop.root / "indexes")}
    data |= changes.pop("data", {})
    fields = {
        "data": data,
        "validation_count": HELD_OUT,
        "output_dir": str(tmp_path),
    }
    return build_stage(name, workshop.config(name, **{**fields, **changes}))


def batch(stage: Stage, positions: range) -> dict[str, torch.Tensor]:
    seed, count = stage.config.seed, len(stage.samples)
    at = [(p, sample_index(seed, p, count, NEW_RUNS)) for p in positions]
    return default_collate([stage.samples.item(*place) for place in at])


@pytest.mark.parametrize(
    ("name", "pictures"), [("stage1", False), ("stage1", True), ("stage2", True)]
)
def test_the_loss_is_that_of_the_vae_to_the_rounding_of_half_precision(
    workshop: Workshop,
    images: Path,
    caches: dict[bool, Path],
    tmp_path: Path,
    name: str,
    pictures: bool,
) -> None:
    """The same pictures, the same posterior noise, noise and noise levels, at every position."""
    initial = str(workshop.root / "s1" / "final")
    own = {"decoder": None, "initial_model": initial, "noise_draws": 2} if name == "stage1" else {}
    data = {"latents": str(caches[pictures])}
    plain = built(name, workshop, images, tmp_path, **own)
    cached = built(name, workshop, images, tmp_path, **own, data=data)
    before, after = (batch(one, range(2 * TRAINED)) for one in (plain, cached))
    assert "latents" not in before and "posterior_noise" not in after
    for kept in before.keys() & after.keys():
        assert torch.equal(before[kept], after[kept]), kept
    assert int(before["refused"].sum()) > 0
    with torch.no_grad():
        losses = [
            float(metrics.get("denoising_loss", loss))
            for loss, metrics in (plain.objective(before), cached.objective(after))
        ]
    assert losses[0] != losses[1]  # half precision was between
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_pictures_of_the_cache_are_the_crops_and_no_image_is_read(
    workshop: Workshop,
    images: Path,
    caches: dict[bool, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = stage1(workshop, images, tmp_path, data={"latents": str(caches[True])})
    monkeypatch.delattr(ShardImages, "__getitem__")
    for index, shown in ((0, 0), (3, 5), (4, 5), (11, 12)):
        item = stage.samples.item(0, index)
        assert np.array_equal(item["image"], decoder_pixels(sample(shown).picture(), 64))
        assert int(item["refused"]) == shown - index


def test_a_run_with_cached_latents_learns_the_same(
    workshop: Workshop, images: Path, caches: dict[bool, Path], tmp_path: Path
) -> None:
    losses = []
    for name, data in (("plain", {}), ("cached", {"latents": str(caches[True])})):
        stage = stage1(
            workshop,
            images,
            tmp_path / name,
            data=data,
            max_train_steps=5,
            logging_steps=1,
            dataloader_num_workers=2,
        )
        train(stage)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mixed_precision": "bf16"}, r"the precision \(from no to bf16\)"),
        ({"decoder": "another"}, "the VAE"),
        ({"images": "another"}, r"the images \(24 were cached, the set has 23\)"),
    ],
)
def test_stale_latents_are_refused_with_what_changed(
    workshop: Workshop,
    images: Path,
    caches: dict[bool, Path],
    tmp_path: Path,
    changes: dict[str, str],
    said: str,
) -> None:
    changes = dict(changes)
    if changes.pop("images", None):
        images = write_images(tmp_path / "others", "webdataset", COUNT - 1)
    if "decoder" in changes:
        changes["decoder"] = str(other_vae(workshop, tmp_path / "model"))
    with pytest.raises(DatasetError, match=f"something changed since they were made: {said}; make"):
        stage1(workshop, images, tmp_path, data={"latents": str(caches[False])}, **changes)


def test_a_decoder_that_is_kept_in_bfloat16_is_the_one_of_its_folder(
    workshop: Workshop, images: Path, caching: Callable[..., list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    run(caching(out, "--precision", "bf16"), check=False, capture_output=True)
    own = {"data": {"latents": str(out)}, "mixed_precision": "bf16", "frozen_dtype": "bf16"}
    assert "latents" in stage1(workshop, images, tmp_path / "run", **own).samples.item(0, 3)


def other_vae(workshop: Workshop, folder: Path) -> Path:
    """The model with one weight of its VAE changed."""
    model = load_model(workshop.root / "s1" / "final")
    with torch.no_grad():
        model.decoder.vae.encoder.conv_in.bias += 0.01
    save_model(model, folder)
    return folder


def test_a_killed_command_goes_on_and_makes_the_same(
    caching: Callable[..., list[str]], tmp_path: Path
) -> None:
    data = write_images(tmp_path / "set", "folder", 150)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(caching(whole, data=data), check=False, capture_output=True)
    done: list[int] = []
    for records in (3, 9):
        process = Popen(caching(killed, data=data), stdout=PIPE, stderr=PIPE, text=True)
        deadline = time.monotonic() + 300
        while len(list(killed.glob("0*.json"))) < records and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        done.append(len(list(killed.glob("0*.json"))))
        with pytest.raises(DatasetError, match=f"{22 - done[-1]} of 22 shards are missing"):
            SetLatents(killed, 1.0)
    assert done[0] < done[1] < 22
    first = {path: path.stat().st_mtime_ns for path in killed.glob("0*.json")}
    ended = run(caching(killed, "--json", data=data), check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    assert records[-1]["images"] == 150 and records[-1]["refused"] == len(REFUSED)
    assert f"{150 - 7 * done[1]} of 150 images to do" in ended.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in first.items())
    assert not list(killed.glob("*.tmp"))
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in killed.iterdir())
    for name in names:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


def test_a_disk_that_is_too_small_is_refused_before_the_work(
    workshop: Workshop, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_caching.CachePlan, "bytes_free", 1000)
    with pytest.raises(DatasetError, match=r"need 0\.\d MB in .* which has 0\.0 MB free; name"):
        latents(
            images,
            tmp_path / "cache",
            model=str(workshop.root / "s1" / "final"),
            index_folder=workshop.root / "indexes",
        )
    assert not list((tmp_path / "cache").iterdir())


def test_only_a_cache_is_replaced(
    caching: Callable[..., list[str]], caches: dict[bool, Path], tmp_path: Path
) -> None:
    def code(out: Path, *options: str) -> tuple[int, str]:
        ended = run(caching(out, *options), capture_output=True, text=True, check=False)
        return ended.returncode, ended.stderr

    (tmp_path / "00000.json").write_text("mine")
    ended, words = code(tmp_path, "--overwrite")
    assert ended == 2 and "holds other files" in words
    assert (tmp_path / "00000.json").read_text() == "mine"
    ended, words = code(caches[True])
    assert ended == 2 and "whether pictures are kept (--pictures)" in words
    other = tmp_path / "cache"
    shutil.copytree(caches[True], other)
    ended, words = code(other, "--overwrite")
    assert ended == 1 and "24 of 24 images to do" in words
    assert {path.name for path in other.iterdir()} == {
        path.name for path in caches[False].iterdir()
    }


def test_a_cache_whose_key_is_damaged_or_lost_is_made_again(tmp_path: Path) -> None:
    key = {"vae": "a", "precision": "no", "image_size": 64, "images": "b", "count": 2}
    contents = CacheContents(**key, shape=(2, 4, 8, 8), pictures=False, shard_size=1)
    for number in range(3):  # one more than the new ones
        (tmp_path / f"0000{number}.json").write_text('{"count": 1}')
        (tmp_path / f"0000{number}.latents.npy").write_text("old")
    with pytest.raises(ConfigError, match="replace what is left of its latents with --overwrite"):
        latent_caching.plan_cache(tmp_path, contents)
    (tmp_path / "latents.json").write_text("{")
    with pytest.raises(DatasetError, match=r"not JSON.*again with vlv data latents --overwrite"):
        latent_caching.plan_cache(tmp_path, contents)
    for lost in (False, True):
        (tmp_path / "00000.latents.npy").write_text("old")
        if lost:
            (tmp_path / "latents.json").unlink(missing_ok=True)
        plan = latent_caching.plan_cache(tmp_path, contents, overwrite=True)
        assert plan.missing == (0, 1)
        assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_what_another_process_writes_is_not_overwritten(tmp_path: Path) -> None:
    key = {"vae": "a", "precision": "no", "image_size": 64, "images": "b", "count": 1}
    contents = CacheContents(**key, shape=(2, 4, 8, 8), pictures=False, shard_size=1)
    (tmp_path / "latents.json").write_text(contents.model_dump_json())
    (tmp_path / "00000.json").write_text('{"count": 1}')
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(ConfigError, match="another process writes latents"),
    ):
        latent_caching.plan_cache(tmp_path, contents, overwrite=True)
    assert not latent_caching.plan_cache(tmp_path, contents).missing
    assert latent_caching.plan_cache(tmp_path, contents, overwrite=True).missing == (0,)


def test_a_refused_image_whose_name_is_no_text(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / os.fsdecode(b"a\xff.png")).write_bytes(b"no image")
    images = open_image_set(photos, index_folder=tmp_path / "index")
    vae = AutoencoderKL(**TINY_MODEL["vae"])
    key = CacheKey.of(vae, images, 64, "no")
    contents = CacheContents(**key.model_dump(), pictures=False, shard_size=1)
    plan = latent_caching.plan_cache(out, contents)
    ((refusal,),) = latent_caching.fill_cache(plan, images, vae)
    assert refusal.reason == "unknown-format" and "a\\xff.png" in refusal.message
    assert latent_caching.refusals(plan) == [refusal]


def test_the_command_says_how_far_it_is_where_there_is_no_terminal(
    vlv: Callable[..., Any],
    tiny_model_dir: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    ran = vlv(
        *("data", "latents", images, "--out", tmp_path / "latents", "--device", "cpu"),
        *("--model", tiny_model_dir, "--index-folder", tmp_path / "indexes"),
    )
    assert f"vlv: latents: {COUNT} of {COUNT} images, " in ran.err
    assert any(line.startswith("indexing ") for line in caplog.messages)
