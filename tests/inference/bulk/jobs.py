"""Jobs on few pictures, and what they leave."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from tests import launcher
from tests.shared import until

from vlv.data.folder import write_folder
from vlv.data.world_sets import world_samples

COUNT = 14
FAST = ["--num-beams", "1", "--max-new-tokens", "6", "--keep-unfinished", "--shard-size", "4"]
MARKS = ".vlv-bulk/0*.json"


def scenes(folder: Path) -> Path:
    """The same scenes every time, in two folders, with names that need care."""
    folder.mkdir()
    write_folder(world_samples(COUNT, seed=3), folder)
    for file in folder.glob("*.txt"):
        file.unlink()
    (folder / "metadata.jsonl").unlink()
    (folder / "a b").mkdir()
    for number, file in enumerate(sorted(folder.glob("*.png"))[: COUNT // 2]):
        file.rename(folder / "a b" / f"ä {number}.png")
    return folder


def captions(target: Path) -> dict[str, str]:
    lines = (target / "metadata.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["file_name"] for record in records}) == len(records)
    return {record["file_name"]: record["text"] for record in records}


def digest(target: Path) -> str:
    """Of all results: names and bytes, without hidden ones."""
    sum = hashlib.sha256()
    for file in sorted(target.rglob("*")):
        if file.is_file() and not any(part.startswith(".vlv") for part in file.parts):
            sum.update(str(file.relative_to(target)).encode() + b"\0" + file.read_bytes())
    return sum.hexdigest()


def numbers(out: str) -> dict[str, Any]:
    return dict(json.loads(out))


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "vlv.cli", "bulk", *map(str, args), *FAST]


def workers(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Of a running job; their parent is the process that they are forked from."""
    found: list[psutil.Process] = []
    for one in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            found += one.children() if one.name() != launcher.NAME else []
    return found


def first_worker(process: subprocess.Popen[Any]) -> psutil.Process:
    """The first one of a job that was just started, as soon as there is one."""
    found: list[psutil.Process] = []

    def there() -> bool:
        assert process.poll() is None, "the job ended before a worker was seen"
        found[:] = workers(process)
        return bool(found)

    until(there, 300)
    return found[0]


class Deadly:
    """A picture on which numpy, as processes with `environment` have it, makes a batch and dies.

    It stands for a fault in a library of numbers, in the process of the model.
    """

    COLOR = (250, 3, 250)
    SITE = """
import os, signal
import numpy

stack = numpy.stack

def deadly_stack(arrays, *args, **kwargs):
    arrays = list(arrays)
    if any(getattr(one, "ndim", 0) == 3 and (one == {color}).all() for one in arrays):
        with open({deaths!r}, "a") as file:
            file.write("died\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return stack(arrays, *args, **kwargs)

numpy.stack = deadly_stack
"""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._deaths = folder / "deaths"
        site = self.SITE.format(color=self.COLOR, deaths=str(self._deaths))
        (folder / "sitecustomize.py").write_text(site)
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        self.environment = {**os.environ, "PYTHONPATH": path}

    def add(self, pictures: Path) -> str:
        """Put it among others; its name."""
        Image.new("RGB", (64, 64), self.COLOR).save(pictures / "000000009b.png")
        return "000000009b.png"

    def deaths(self) -> int:
        return len(self._deaths.read_text().splitlines())
