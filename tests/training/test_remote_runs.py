"""Training on a set in a real object store: the same run as on disk, wherever it was stopped."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import s3fs
import torch
from tests import launcher
from tests.data.remote.stores import BUCKET, Store, bytes_in, running
from tests.data.test_sets import a_sample
from tests.training.conftest import Workshop
from tests.training.image_folders import write_images
from tests.training.test_loop import whole_state

from vlv.data.sets import write_set
from vlv.data.world_sets import world_samples
from vlv.training.checkpoint import list_checkpoints, read_checkpoint

SHARDS, EACH = 200, 9


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with running() as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VLV_SHARD_CACHE", str(tmp_path / "cache"))
    s3fs.S3FileSystem.clear_instance_cache()  # clients of another server, of another test
    return server


def test_a_run_on_a_store_is_the_run_on_disk_and_goes_on_exactly(
    workshop: Workshop, store: Store, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "images", "webdataset")
    store.put(folder, "images")

    def train(name: str, place: str, steps: int, **changes: Any) -> Path:
        data = {"set": place, "index_folder": str(tmp_path / "ix"), "streams": 2}
        workshop.run(
            "stage1",
            decoder=None,
            initial_model=str(workshop.root / "s1" / "final"),
            data={**data, "shuffle_buffer": 4},
            validation_count=4,
            logging_steps=1,
            output_dir=str(tmp_path / name),
            max_train_steps=steps,
            checkpointing_steps=3,
            validation_steps=1000,
            **changes,
        )
        return tmp_path / name

    url = f"s3://{BUCKET}/images/{{00000..00002}}.tar"
    near = train("near", str(folder), 8, data_order=3)
    far = train("far", url, 8)
    for later in list_checkpoints(far)[1:]:
        shutil.rmtree(later)
    train("far", url, 8, dataloader_num_workers=1)
    state, losses = whole_state(far, 8)
    wanted, wanted_losses = whole_state(near, 8)
    assert losses == wanted_losses
    assert [name for name in wanted if not torch.equal(state[name], wanted[name])] == []
    _, saved = read_checkpoint(list_checkpoints(far)[-1])
    assert saved["data_order"] == 3


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_bulk_captions_a_store_as_a_folder(
    workshop: Workshop, store: Store, tmp_path: Path, format: str
) -> None:
    folder = write_images(tmp_path / "images", format)
    suffix = ".tar" if format == "webdataset" else ".parquet"
    store.put(folder, f"images-{format}")
    model = str(workshop.root / "s2" / "final")
    captions = []
    for name, place in (("near", str(folder)), ("far", f"s3://{BUCKET}/images-{format}/*{suffix}")):
        out = tmp_path / name
        command = [sys.executable, "-m", "vlv.cli", "bulk", place, out, "--model", model]
        options = ["--workers", "1", "--max-new-tokens", "4"]
        # In a process of its own: in this one, workers have the environment of the first of them.
        ran = launcher.run([*command, *options], capture_output=True, text=True)
        assert ran.returncode == 1, ran.stderr  # three of the images are damaged
        lines = (out / "metadata.jsonl").read_text().splitlines()
        captions.append([json.loads(line)["text"] for line in lines])
    assert captions[0] == captions[1] and len(captions[0]) > 15


@pytest.fixture
def scenes(store: Store, tmp_path: Path) -> Path:
    """Eight scenes in three shards on disk, which are in the store too."""
    folder = tmp_path / "scenes"
    write_set(world_samples(8, seed=3), folder, format="webdataset", shard_size=3)
    store.put(folder, "scenes")
    return folder


def test_latents_of_a_set_in_a_store(
    vlv: Callable, tiny_model_dir: Path, scenes: Path, tmp_path: Path
) -> None:
    made = []
    for source, name in ((scenes, "disk"), (f"s3://{BUCKET}/scenes", "store")):
        ran = vlv(
            *("data", "latents", source, "--out", tmp_path / name, "--model", tiny_model_dir),
            *("--index-folder", tmp_path / "indexes", "--shard-size", 5, "--device", "cpu"),
        )
        assert ran.code == 0, ran.err
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("[0-9]*")})
    assert made[0] == made[1] and len(made[0]) == 4


def test_what_a_store_does_not_give_to_a_process_is_said_in_one_sentence(
    tiny_model_dir: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def latents(out: str, workers: int) -> "subprocess.CompletedProcess[str]":
        words = ["data", "latents", f"s3://{BUCKET}/scenes", "--out", str(tmp_path / out)]
        words += ["--model", str(tiny_model_dir), "--index-folder", str(tmp_path / "indexes")]
        words += ["--device", "cpu", "--workers", str(workers)]
        command = [sys.executable, "-m", "vlv.cli", *words]
        return launcher.run(command, capture_output=True, text=True, check=False)

    assert latents("whole", 0).returncode == 0  # the index is made
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("VLV_SHARD_CACHE_SIZE", "1kB")
    alone, shared = latents("alone", 0), latents("shared", 2)
    assert alone.returncode == shared.returncode == 1
    (said,) = {ran.stderr.splitlines()[-1] for ran in (alone, shared)}
    assert said.startswith("vlv: ") and "raise VLV_SHARD_CACHE_SIZE" in said


def test_fine_tuning_on_a_set_in_a_store(
    vlv: Callable, tiny_model_dir: Path, scenes: Path, tmp_path: Path
) -> None:
    weights = []
    for source, name in ((scenes, "disk"), (f"s3://{BUCKET}/scenes/*.tar", "store")):
        ran = vlv(
            *("finetune", tiny_model_dir, source, "--out", tmp_path / name, "--device", "cpu"),
            *("--epochs", 1, "--batch-size", 4, "--validation", 0),
        )
        assert ran.code == 0, ran.err
        (file,) = (tmp_path / name).rglob("adapter_model.safetensors")
        weights.append(file.read_bytes())
    assert weights[0] == weights[1]


def read(
    store: Store, folder: Path, name: str, numbers: tuple[int, ...], *, bad: bool, cap: int
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.training.remote_reader"]
    command += [f"s3://{BUCKET}/many/{{00000..{SHARDS - 1:05d}}}.tar", str(folder / "ix")]
    command += [str(folder / name), *map(str, numbers)]
    environment = {**os.environ, **store.environment(bad=bad)}
    environment |= {"VLV_SHARD_CACHE": str(folder / "cache"), "VLV_SHARD_CACHE_SIZE": str(cap)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_two_hundred_shards_of_a_bad_server_are_read_exactly_and_through_kills(
    store: Store, tmp_path: Path
) -> None:
    """Ranks {1,2,3} and workers {0,1,2}, then ten kills: every key once, and the same sequence."""
    total = SHARDS * EACH
    local = tmp_path / "many"
    samples = (a_sample(n % 256, key=f"{n:09d}") for n in range(total))
    write_set(samples, local, format="webdataset", shard_size=EACH)
    store.put(local, "many", "*.tar")
    store.behave(0.02, 0.02, 0.2)
    size = max(path.stat().st_size for path in local.glob("*.tar"))
    cap = 80 * size
    most = 0
    sequences = set()
    for ranks, workers in product((1, 2, 3), (0, 1, 2)):
        names = [f"{ranks}-{workers}-{rank}" for rank in range(ranks)]
        steps = total // (12 // ranks * ranks)
        processes = [
            read(
                store,
                tmp_path,
                name,
                (rank, ranks, workers, 12 // ranks, steps),
                bad=True,
                cap=cap,
            )
            for rank, name in enumerate(names)
        ]
        while any(process.poll() is None for process in processes):
            most = max(most, bytes_in(tmp_path / "cache"))
            time.sleep(0.01)
        assert [process.returncode for process in processes] == [0] * ranks, [
            (process.stderr.read() if process.stderr else b"")[-2000:] for process in processes
        ]
        lines = [(tmp_path / name).read_text().splitlines() for name in names]
        keys = Counter(int(key) for one in lines for line in one for key in line.split())
        assert keys == Counter(range(total)), (ranks, workers)
        together = "\n".join(
            " ".join(
                key for keys in zip(*(one.split() for one in step), strict=True) for key in keys
            )
            for step in zip(*lines, strict=True)
        )
        sequences.add(together)
    # The same positions whatever the number of ranks and workers.
    assert len(sequences) == 1
    assert 0 < most <= cap

    chance, kills = random.Random(0), 0
    killed = tmp_path / "killed"
    numbers = (0, 1, 2, 12, total // 12)
    while True:
        process = read(store, tmp_path, "killed", numbers, bad=True, cap=cap)
        before = killed.read_bytes().count(b"\n") if killed.exists() else 0
        wanted = before + chance.randint(1, 12)
        while process.poll() is None and kills < 10:
            if killed.exists() and killed.read_bytes().count(b"\n") >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills == 10
    assert killed.read_text() == (tmp_path / "1-0-0").read_text()
    times = store.answers()
    print(f"{sum(times.values()):,} answers with content of {len(times)} files; ", end="")
    print(f"cap {cap:,} bytes, at most {most:,}; {total:,} samples in {SHARDS} shards")
