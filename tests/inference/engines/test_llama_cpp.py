"""llama.cpp in this program, with the mini model as a GGUF file: the same tokens as transformers.

Needs an environment with llama-cpp-python (`.ci/nightly` makes it).
"""

from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
import torch
from tests.inference.engines import parity
from tests.inference.engines.conftest import MINI, TOKENS, Encoded

from vlv.checkpoints.gguf import export_gguf
from vlv.checkpoints.opening import load_model
from vlv.checkpoints.prompt_parts import load_prompt_parts
from vlv.errors import ConfigError, EngineError
from vlv.inference.engines.engine import Sampling
from vlv.inference.engines.llama_cpp import LlamaCppEngine

pytestmark = pytest.mark.engines


def opened(folder: Path) -> LlamaCppEngine:
    return LlamaCppEngine(load_prompt_parts(load_model(folder)))


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf") / "f32"
    assert export_gguf(load_model(MINI), folder, "f32") is None
    return folder


@pytest.fixture(scope="module")
def engine(float32: Path) -> Iterator[LlamaCppEngine]:
    engine = opened(float32)
    yield engine
    engine.close()


@pytest.mark.parametrize(
    "holds",
    [
        parity.greedy_tokens_are_those_of_transformers,
        parity.forced_starts_and_banned_words_are_those_of_transformers,
        parity.lengths_are_kept,
        parity.samples_follow_their_seed,
        parity.cancelled_requests_leave_the_others,
        parity.a_written_caption_goes_on,
        parity.what_does_not_fit_is_refused,
    ],
)
def test_what_every_engine_does(holds, engine: LlamaCppEngine, scenes: Encoded) -> None:
    holds(engine, scenes)


@pytest.mark.parametrize(("quantize", "equal"), [("f16", 30), ("q8_0", 24)])
def test_fewer_bits_change_few_captions(
    quantize: str, equal: int, tmp_path: Path, scenes: Encoded
) -> None:
    assert export_gguf(load_model(MINI), tmp_path / "out", quantize) is None
    engine = opened(tmp_path / "out")
    found = parity.write(engine, list(scenes.e), Sampling(max_new_tokens=TOKENS))
    engine.close()
    same = [a == b for a, b in zip(parity.captions(scenes, found), scenes.greedy, strict=True)]
    print(quantize, sum(same))
    assert sum(same) >= equal
