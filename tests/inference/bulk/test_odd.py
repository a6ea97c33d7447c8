"""`vlv bulk` on odd samples, in every format: each costs itself alone and is named."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage
from tests import launcher
from tests.data.odd_shards import ODD, member, odd_shard, png
from tests.inference.bulk.jobs import COUNT, FAST, captions, command, first_worker, numbers

from vlv.data.sets import read_set


def failed(target: Path) -> dict[str, str]:
    lines = (target / ".vlv-bulk" / "failed.jsonl").read_text().splitlines()
    return {one["file_name"]: one["status"] for one in map(json.loads, lines)}


@pytest.mark.parametrize("kind", ["jsonl", "folder", "parquet", "webdataset"])
def test_odd_samples_cost_themselves(vlv: Callable, tmp_path: Path, kind: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for number, what in enumerate(ODD):
        odd_shard(source / f"{number:05d}.tar", what)
    ran = vlv("bulk", source, out, *FAST, "--output-format", kind, "--json")
    refused = {
        f"{number:05d}/{name}" for number, (_, name) in enumerate(ODD.values()) if name is not None
    }
    # Where images are files, one of two must give way.
    both = f"{list(ODD).index('a folder where a file is'):05d}/m.png/x.png"
    assert ran.code == 1, ran.err
    assert set(failed(out)) == refused | ({both} if kind == "folder" else set())
    if kind in ("jsonl", "folder"):
        made = set(captions(out))
    else:
        assert all(sample.caption for sample in read_set(out))
        made = {sample.meta["file_name"] for sample in read_set(out)}
    for number in range(len(ODD)):
        assert {f"{number:05d}/a.png", f"{number:05d}/z.png"} <= made
    assert len(made) == numbers(ran.out)["ok"]


def test_names_that_are_not_utf8_are_captioned(vlv: Callable, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    PILImage.new("RGB", (64, 64)).save(pictures / "caf\udce9.png")
    PILImage.new("RGB", (64, 64)).save(pictures / "a\nb.png")
    ran = vlv("bulk", pictures, pictures, *FAST, "--output-format", "txt")
    assert ran.code == 0, ran.err
    assert (pictures / "caf\udce9.txt").read_text()
    assert (pictures / "a\nb.txt").read_text()
    shutil.rmtree(pictures / ".vlv-bulk")
    ran = vlv("bulk", pictures, tmp_path / "out", *FAST, "--output-format", "folder")
    assert ran.code == 0, ran.err
    assert set(captions(tmp_path / "out")) == {"caf\\xe9.png", "a\nb.png"}
    assert (tmp_path / "out" / "caf\\xe9.png").is_file()


def test_a_table_without_images_among_others(vlv: Callable, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in "ac":
        pq.write_table(pa.table({"image": pa.array([png(1), png(2)])}), source / f"{name}.parquet")
    pq.write_table(pa.table({"img": pa.array([1])}), source / "b.parquet")
    (source / "d.parquet").write_bytes(b"PAR1")
    job = ["bulk", source, tmp_path / "out", *FAST, "--json"]
    ran = vlv(*job)
    reported = numbers(ran.out)
    assert (ran.code, reported["ok"], reported["failed"]) == (1, 4, {"bad-sample": 2})
    # Mended, and one more.
    pq.write_table(pa.table({"image": pa.array([png(3)])}), source / "b.parquet")
    pq.write_table(pa.table({"png": pa.array([png(4)])}), source / "e.parquet")
    reported = numbers(vlv(*job).out)
    assert (reported["ok"], reported["failed"], reported["images_in_this_run"]) == (
        6,
        {"bad-sample": 1},
        2,
    )


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_replaced(pictures: Path, tmp_path: Path) -> None:
    run = command(pictures, tmp_path / "out", "--workers", "1", "--worker-timeout", "15")
    process = launcher.Popen(run, stderr=subprocess.PIPE, text=True)
    first_worker(process).send_signal(signal.SIGSTOP)
    _, reported = process.communicate(timeout=250)
    assert process.returncode == 0
    assert "worker 0 gave no sign of life for 15 seconds; it is replaced" in reported
    assert len(captions(tmp_path / "out")) == COUNT


def test_a_shard_that_no_worker_survives_is_given_up(tmp_path: Path) -> None:
    """A header that ends the process stands for a fault in a library that reads."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    site.mkdir()
    for number, name in enumerate(("a", "deadly", "b")):
        (source / f"{number}.tar").write_bytes(member(f"{name}.png", png(1)) + b"\0" * 1024)
    (site / "sitecustomize.py").write_text(
        "import os, tarfile\n"
        "frombuf = tarfile.TarInfo.frombuf\n"
        "def deadly(buffer, *args):\n"
        "    return os._exit(7) if b'deadly' in buffer else frombuf(buffer, *args)\n"
        "tarfile.TarInfo.frombuf = deadly\n"
    )
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    ran = launcher.run(
        command(source, tmp_path / "out", "--json"),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1, ran.stderr
    reported = numbers(ran.stdout)
    assert (reported["ok"], reported["failed"]) == (2, {"crashed": 1})
    failed = json.loads((tmp_path / "out" / ".vlv-bulk" / "failed.jsonl").read_text())
    assert "1.tar) was given up: workers that read it died with exit code 7" in failed["message"]
