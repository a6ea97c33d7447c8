"""`vlv data latents --engine ray`: the same bytes as without it, whatever is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.training.conftest import Workshop
from tests.training.image_folders import COUNT, REFUSED, sample, write_images

from vlv.cli.data.latents import Inputs
from vlv.errors import DatasetError
from vlv.training.latent_caching import CachePlan, plan_cache
from vlv.training.latents_on_ray import LatentActors, fill_cache_on_ray
from vlv.training.samples.set_latents import CacheContents, CacheKey

RAY = ("--engine", "ray", "--actors", "2")
IMAGES, SHARDS = 600, 86


def test_without_the_extra_the_error_names_it(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing else loads Ray; None in its place is what Python keeps for a module that is missing.
    monkeypatch.setitem(sys.modules, "ray", None)
    images = write_images(tmp_path / "set", "folder", 1)
    into = ("data", "latents", images, "--out", tmp_path / "out")
    ran = vlv(*into, "--engine", "ray")
    assert ran.code == 2
    assert "needs ray; install it with: pip install -c constraints.txt 'vlv[ray]'" in ran.err
    for option in (("--ray-address", "x:1"), ("--actors", "2")):
        ran = vlv(*into, *option)
        assert ran.code == 2 and f"{option[0]} needs --engine ray" in ran.err
    ran = vlv(*into, "--engine", "ray", "--device", "cuda:1")
    assert ran.code == 2 and "give --device cuda, not cuda:1" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "set", "webdataset", IMAGES)


@pytest.fixture(scope="module")
def command(workshop: Workshop, images: Path) -> Callable[..., list[str]]:
    """The words of a command that caches the latents of the set, in shards of seven images."""
    model = ("--model", str(workshop.root / "s1" / "final"), "--device", "cpu")
    index = ("--index-folder", str(workshop.root / "indexes"))
    code = "from vlv.cli import main; main()"

    def words(out: Path, *options: str) -> list[str]:
        own = [sys.executable, "-c", code, "data", "latents", str(images), "--out", str(out)]
        return [*own, *model, *index, "--shard-size", "7", "--pictures", *options]

    return words


@pytest.fixture(scope="module")
def own(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the command makes by itself."""
    out = tmp_path_factory.mktemp("own") / "cache"
    assert subprocess.run(command(out)).returncode == 1  # some images are refused
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def begun(words: list[str], out: Path) -> subprocess.Popen[str]:
    """A command that has made a shard, and is at work."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob("0*.json")):
        time.sleep(0.005)
    assert process.poll() is None
    return process


@pytest.mark.slow
def test_ray_makes_what_the_command_makes(
    command: Callable[..., list[str]], own: Path, tmp_path: Path
) -> None:
    ran = subprocess.run(command(tmp_path / "ray", *RAY), capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert "600 of 600 images to do" in ran.stderr and "latents of 597 of 600 images" in ran.stdout
    for number, reason in REFUSED.items():
        assert f"{reason}: {sample(number).file_name}" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert contents(tmp_path / "ray") == contents(own)
    assert len(contents(own)) == 1 + 3 * SHARDS


@pytest.mark.slow
def test_what_its_actors_were_at_when_they_died_is_done_again(
    command: Callable[..., list[str]], own: Path, tmp_path: Path
) -> None:
    process = begun(command(tmp_path / "died", *RAY), tmp_path / "died")
    killed = 0
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "MapWorker" in " ".join(child.cmdline()):
                child.kill()
                killed += 1
        except psutil.NoSuchProcess:
            pass  # it ended meanwhile
    assert killed == 2
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert contents(tmp_path / "died") == contents(own)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_sent", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)],
)
def test_a_command_that_was_ended_goes_on_with_either_engine(
    command: Callable[..., list[str]], own: Path, tmp_path: Path, signal_sent: int, code: int
) -> None:
    out = tmp_path / "ended"
    process = begun(command(out, *RAY), out)
    process.send_signal(signal_sent)
    process.communicate(timeout=60)
    assert process.returncode == code
    done = len(list(out.glob("0*.json")))
    assert 0 < done < SHARDS
    again = RAY if signal_sent == signal.SIGTERM else ()
    ended = subprocess.run(command(out, *again), capture_output=True, text=True)
    assert ended.returncode == 1
    assert f"{IMAGES - 7 * done} of {IMAGES} images to do" in ended.stderr
    assert contents(out) == contents(own)


@pytest.fixture
def inputs(workshop: Workshop, images: Path) -> Inputs:
    model = str(workshop.root / "s1" / "final")
    return Inputs(images, None, workshop.root / "indexes", model, "cpu", 32)


def plan_of(inputs: Inputs, out: Path) -> CachePlan:
    images, vae = inputs()
    key = CacheKey.of(vae, images, 64, "no")
    return plan_cache(out, CacheContents(**key.model_dump(), pictures=False, shard_size=100))


@pytest.mark.slow
def test_a_machine_with_other_images_ends_the_job(inputs: Inputs, tmp_path: Path) -> None:
    plan = plan_of(inputs, tmp_path / "out")
    others = write_images(tmp_path / "others", "webdataset", COUNT)
    other = Inputs(others, None, inputs.index_folder, inputs.model, "cpu", 32)
    with pytest.raises(DatasetError, match=r"other inputs than the command: the images \(600 were"):
        list(fill_cache_on_ray(plan, other, LatentActors(count=1, device="cpu")))


@pytest.mark.slow
def test_actors_that_die_again_and_again_end_the_job(inputs: Inputs, tmp_path: Path) -> None:
    plan = plan_of(inputs, tmp_path / "out")
    with pytest.raises(DatasetError, match="died 4 times over the same shard"):
        list(fill_cache_on_ray(plan, partial(os._exit, 1), LatentActors(count=1, device="cpu")))
