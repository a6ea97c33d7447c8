"""vLLM in this program, with the mini model: the same tokens as transformers.

Needs an environment of its own (`.ci/nightly` makes it).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from tests.inference.engines import parity
from tests.inference.engines.conftest import MINI, TOKENS, Encoded
from tests.serving import conftest as server

from vlv.checkpoints.opening import load_model
from vlv.checkpoints.prompt_parts import load_prompt_parts
from vlv.inference.engines.vllm import VLLMEngine

pytestmark = pytest.mark.engines


def started(log: list[str]) -> VLLMEngine:
    model = load_model(MINI)
    engine = VLLMEngine(load_prompt_parts(model), torch.float32, torch.device("cpu"), log.append)
    assert "caption_decoder" not in model.loaded
    return engine


@pytest.fixture(scope="module")
def log() -> list[str]:
    return []


@pytest.fixture(scope="module")
def engine(log: list[str]) -> Iterator[VLLMEngine]:
    engine = started(log)
    yield engine
    engine.close()


def test_memory_is_reported(engine: VLLMEngine, log: list[str]) -> None:
    # 64 captions of 512 positions, and two blocks; 4 layers of 2 heads of 32 values, in float32.
    assert engine.cache.bytes == (64 * 512 + 32) * 2 * 4 * 2 * 32 * 4
    assert log == ["vLLM keeps 0.07 GB for keys and values, which is room for 64 captions at once"]
    assert engine.room == 64


@parity.every_engine
def test_what_every_engine_does(
    holds: Callable[..., None], engine: VLLMEngine, scenes: Encoded
) -> None:
    holds(engine, scenes)


def test_commands_give_the_captions_of_transformers(
    tmp_path: Path, vlv: Callable[..., Any]
) -> None:
    chosen = ("--model", MINI, "--engine", "vllm")
    said = parity.commands_give_the_captions_of_transformers(vlv, tmp_path, chosen)
    assert "vlv: vLLM keeps 0.07 GB for keys and values" in said


def test_a_service_captions_with_vllm(tmp_path: Path, scenes: Encoded) -> None:
    """The same captions, a penalty, a text at which captions stop, and refused beams. With the
    server, vLLM's processes end.
    """
    before = of_vllm()
    running = server.start(tmp_path / "log", "--engine", "vllm")
    try:
        url = server.data_url(server.scene(0))

        def asked(**fields: object) -> httpx.Response:
            content = [{"type": "image_url", "image_url": {"url": url}}]
            messages = [{"role": "user", "content": content}]
            return running.post("/v1/chat/completions", messages=messages, **fields)

        def text(**fields: object) -> str:
            answer = asked(max_tokens=TOKENS, **fields)
            assert answer.status_code == 200, answer.text
            said: str = answer.json()["choices"][0]["message"]["content"]
            return said

        greedy = scenes.greedy[0].text
        assert text() == greedy
        first, _, _ = greedy.partition(".")
        assert text(stop=".") == first
        assert text(repetition_penalty=1.5) not in ("", greedy)
        assert text(temperature=1.5, min_p=1.0) == greedy
        refused = running.post("/v1/vlv/caption", image=url, num_beams=2)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "num_beams")
        new = of_vllm() - before
        assert new
    finally:
        server.stop(running)
    _, alive = psutil.wait_procs(new, timeout=60)
    assert alive == []


def of_vllm() -> set[psutil.Process]:
    """vLLM's processes on this machine."""
    return {one for one in psutil.process_iter(["cmdline"]) if "VLLM" in str(one.info["cmdline"])}
