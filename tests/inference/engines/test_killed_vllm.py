"""What remains where vLLM's process is killed, and vLLM's end where vlv is killed.

Needs an environment of its own (`.ci/nightly` makes it).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests import launcher
from tests.inference.bulk import jobs
from tests.inference.engines.conftest import MINI, Encoded
from tests.serving import conftest as serving
from tests.serving.test_limits import data_of

from vlv.checkpoints.opening import load_model
from vlv.checkpoints.prompt_parts import load_prompt_parts
from vlv.data.folder import write_folder
from vlv.data.world_sets import world_samples
from vlv.errors import EngineStopped
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.vllm import VLLMEngine

pytestmark = pytest.mark.engines

# Tokens of each caption, so that a kill meets captions in progress.
TOKENS = 400
LONG = ("--max-new-tokens", str(TOKENS), "--min-new-tokens", str(TOKENS))
STOPPED = "vLLM has stopped: its process has ended"


def kill_vllm(program: int) -> None:
    """Kill the processes of vLLM below a process."""
    below = psutil.Process(program).children(recursive=True)
    cores = [one for one in below if "EngineCore" in " ".join(one.cmdline())]
    assert cores
    for one in cores:
        one.kill()
    psutil.wait_procs(cores, timeout=10)


def started() -> VLLMEngine:
    parts = load_prompt_parts(load_model(MINI))
    return VLLMEngine(parts, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("at_work", [True, False])
def test_an_engine_says_so_in_a_sentence(scenes: Encoded, at_work: bool) -> None:
    """While captions are written, and between two of them."""
    engine = started()
    sampling = Sampling(max_new_tokens=TOKENS, min_new_tokens=TOKENS)
    engine.add(0, scenes.e[0], sampling)
    while not engine.step():
        pass
    if not at_work:
        engine.cancel(0)
    kill_vllm(psutil.Process().pid)
    with pytest.raises(EngineStopped, match=rf"^{STOPPED}$"):
        engine.add(1, scenes.e[1], sampling)
        for _ in range(1000):
            engine.step()
    engine.cancel(0)  # a caller that gives up its captions is not disturbed
    engine.close()


def test_vlv_caption_ends_with_a_sentence(tmp_path: Path) -> None:
    """While it writes the last of more captions than vLLM writes at once."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    write_folder(world_samples(80, seed=3), pictures)
    for file in pictures.glob("*.txt"):
        file.unlink()
    command = [sys.executable, "-m", "vlv.cli", "caption", str(pictures), "--engine", "vllm"]
    command += ["--output-format", "txt", *LONG]
    process = launcher.Popen(command, stderr=subprocess.PIPE, text=True)
    serving.until(lambda: list(pictures.glob("*.txt")) != [], 240)
    kill_vllm(process.pid)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    # Python's tracker of resources may add that vLLM left semaphores behind.
    assert f"vlv: {STOPPED}" in said.splitlines()
    assert "Traceback" not in said


def test_a_bulk_job_replaces_its_worker(vlv: Callable[..., Any], tmp_path: Path) -> None:
    """The captions are those of a job that nobody disturbed."""
    pictures = jobs.scenes(tmp_path / "pictures")
    options = [*LONG, "--num-beams", "1", "--shard-size", "4"]
    assert vlv("bulk", pictures, tmp_path / "whole", *options).code == 0
    target = tmp_path / "killed"
    command = [sys.executable, "-m", "vlv.cli", "bulk", str(pictures), str(target), *options]
    process = launcher.Popen([*command, "--engine", "vllm"], stderr=subprocess.PIPE, text=True)
    serving.until(lambda: list(target.glob(jobs.MARKS)) != [], 240)
    kill_vllm(process.pid)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.count(f"vlv: {STOPPED}; its worker is replaced") == 1
    assert "Traceback" not in said
    assert jobs.digest(target) == jobs.digest(tmp_path / "whole")


def test_a_service_starts_another_one(tmp_path: Path) -> None:
    """A stream goes on after the last word. A request after vLLM died between requests waits."""
    log = tmp_path / "log"
    server = serving.start(log, "--engine", "vllm", "--timeout", "600")
    server.client.timeout = 600
    try:
        body = {"image": serving.data_url(serving.scene(3))}
        body |= {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS}
        whole = server.post("/v1/vlv/caption", **body).json()
        body |= {"stream": True}
        with server.client.stream("POST", "/v1/vlv/caption", json=body) as answer:
            lines = answer.iter_lines()
            received = [next(lines) for _ in range(20)]
            kill_vllm(server.process.pid)
            server.restarts += 1
            received += lines
        *pieces, last = [json.loads(event) for event in data_of(received)[:-1]]
        assert last == whole
        assert "".join(one["text"] for one in pieces) == whole["caption"]
        kill_vllm(server.process.pid)
        server.restarts += 1
        assert server.post("/v1/vlv/caption", **body | {"stream": False}).json() == whole
    finally:
        serving.stop(server)
    said = log.read_text()
    assert "Traceback" not in said
    assert said.count(STOPPED) == 2


def test_vllm_ends_with_a_program_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import time\n"
        "from vlv.checkpoints.opening import load_model\n"
        "from vlv.inference.engine_choice import EngineChoice\n"
        "if __name__ == '__main__':\n"
        "    EngineChoice('vllm').open(load_model('vlv-mini'))\n"
        "    print('open', flush=True)\n"
        "    time.sleep(600)\n"
    )
    program = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    assert program.stdout is not None
    while b"open" not in (line := program.stdout.readline()):
        assert line, "it did not start"
    children = psutil.Process(program.pid).children(recursive=True)
    assert any("VLLM" in " ".join(one.cmdline()) for one in children)
    program.kill()
    program.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
