"""Pictures and latents that are kept are used again only where nothing that makes them changed."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from tests.tiny import TINY_MODEL
from tests.training.conftest import Workshop

from vlv.data.world_images import WorldImages
from vlv.models.precision import computes_bfloat16
from vlv.training.samples.latents import LatentCache
from vlv.world import render


@pytest.fixture(scope="module")
def world(workshop: Workshop) -> WorldImages:
    return WorldImages(workshop.root / "latents", 2)


@pytest.fixture
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**TINY_MODEL["vae"]).requires_grad_(False)


def kept(world: WorldImages) -> set[Path]:
    return set(world.path.parent.glob("*-latents-*.npy"))


def test_another_precision_is_another_file(vae: AutoencoderKL, world: WorldImages) -> None:
    exact = LatentCache(vae, world, "no")
    one = kept(world)
    rounded = LatentCache(vae, world, "bf16")
    assert len(kept(world) - one) == 1
    with torch.no_grad():
        images = torch.from_numpy(world.images.copy()).permute(0, 3, 1, 2) / 127.5 - 1
        expected = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
    assert torch.allclose(exact.means(2), expected, atol=2e-3)
    assert not torch.equal(exact.means(2), rounded.means(2))
    # Asked for again, each is the file that it was; auto is one of the two.
    before = kept(world)
    auto = LatentCache(vae, world, "auto").means(2)
    same = rounded if computes_bfloat16(torch.device("cpu")) else exact
    assert torch.equal(auto, same.means(2)) and kept(world) == before


def test_whatever_changes_the_latents_changes_the_name(world: WorldImages) -> None:
    def named(**changes: object) -> set[Path]:
        torch.manual_seed(0)
        LatentCache(AutoencoderKL(**{**TINY_MODEL["vae"], **changes}), world, "no")
        return kept(world)

    first = named()
    assert named() == first
    # Latents are kept without their scale.
    assert named(scaling_factor=0.5) == first
    # The same weights, otherwise used.
    assert len(named(norm_num_groups=4) - first) == 1
    torch.manual_seed(1)
    before = kept(world)
    LatentCache(AutoencoderKL(**TINY_MODEL["vae"]), world, "no")
    assert len(kept(world) - before) == 1


def test_latents_are_computed_where_the_run_computes(
    vae: AutoencoderKL, world: WorldImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with a GPU on which the run is set to use the CPU."""
    before = LatentCache(vae, world, "no").means(2)
    names = kept(world)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch.equal(LatentCache(vae, world, "no").means(2), before) and kept(world) == names


@pytest.fixture
def another_renderer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    source = Path(render.__file__).read_text(encoding="utf-8")
    changed = tmp_path / "render.py"
    changed.write_text(source.replace("_AMBIENT = 0.34", "_AMBIENT = 0.35"), encoding="utf-8")
    monkeypatch.setattr(render, "__file__", str(changed))
    render.renderer_version.cache_clear()
    yield
    render.renderer_version.cache_clear()


def test_pictures_of_another_renderer_are_not_used(
    tmp_path: Path, world: WorldImages, request: pytest.FixtureRequest
) -> None:
    drawn = WorldImages(tmp_path, 2)
    stale = np.lib.format.open_memmap(drawn.path, mode="r+")
    stale[:] = 7
    stale.flush()
    assert (WorldImages(tmp_path, 2).images == 7).all()  # the same renderer: what is there is used
    request.getfixturevalue("another_renderer")
    again = WorldImages(tmp_path, 2)
    assert np.array_equal(again.images, world.images)
    # Latents are named by the pictures that they are of.
    assert again.path.stem not in {path.stem for path in kept(world)} | {drawn.path.stem}


def test_what_a_killed_process_left_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A half of a large file would stay for ever: its name holds the number of the process."""
    code = f"from vlv.data.world_images import *; WorldImages(Path({str(tmp_path)!r}), 768)"
    with subprocess.Popen([sys.executable, "-c", code]) as drawing:
        while not list(tmp_path.glob("*.tmp")):
            assert drawing.poll() is None
            time.sleep(0.01)
        drawing.kill()
    assert list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("*.npy"))
    with caplog.at_level(logging.INFO, "vlv"):
        other = WorldImages(tmp_path, 2)
        assert list(tmp_path.glob("*.tmp"))  # of other pictures, which may be drawn now
        drawn = WorldImages(tmp_path, 768)
        WorldImages(tmp_path, 768)
    assert not list(tmp_path.glob("*.tmp"))
    assert np.array_equal(drawn.images[:2], other.images)
    # What takes long says so, each time that it does.
    assert [record.getMessage() for record in caplog.records] == [
        f"rendering {count} scenes, once, into {path}"
        for count, path in ((2, other.path), (768, drawn.path))
    ]
