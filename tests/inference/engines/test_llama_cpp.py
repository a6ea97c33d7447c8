"""llama.cpp in this program, with the mini model as a GGUF file: the same tokens as transformers.

Needs an environment with llama-cpp-python (`.ci/nightly` makes it).
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.inference.engines import parity
from tests.inference.engines.conftest import MINI, TOKENS, Encoded
from transformers import Qwen3Config, Qwen3ForCausalLM

from vlv.checkpoints.gguf import export_gguf
from vlv.checkpoints.opening import load_model
from vlv.checkpoints.parts import GGUF_FILE
from vlv.checkpoints.prompt_parts import load_prompt_parts
from vlv.errors import ConfigError, EngineError
from vlv.inference.engine_choice import EngineChoice
from vlv.inference.engines.llama_cpp import LlamaCppEngine
from vlv.inference.engines.sampling import Sampling
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.preprocessing import encoder_pixels
from vlv.pipeline import VLV
from vlv.serving.worker.jobs import CaptionJob, Done, Event, Failed, Submit
from vlv.serving.worker.scheduler import Scheduler
from vlv.world.render import render
from vlv.world.scene import sample_scene

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


@parity.every_engine
def test_what_every_engine_does(
    holds: Callable[..., None], engine: LlamaCppEngine, scenes: Encoded
) -> None:
    holds(engine, scenes)


@pytest.mark.parametrize(("quantize", "equal"), [("f16", 32), ("q8_0", 16)])
def test_16_bits_change_no_caption_and_8_bits_few(
    quantize: str, equal: int, tmp_path: Path, scenes: Encoded
) -> None:
    assert export_gguf(load_model(MINI), tmp_path / "out", quantize) is None
    engine = opened(tmp_path / "out")
    found = parity.write(engine, list(scenes.e), Sampling(max_new_tokens=TOKENS))
    engine.close()
    same = [a == b for a, b in zip(parity.captions(scenes, found), scenes.greedy, strict=True)]
    assert sum(same) >= equal


def test_a_folder_without_a_gguf_file_or_with_a_torn_one_is_named(
    float32: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="vlv export gguf MODEL OUT --quantize q4_k_m"):
        opened(MINI)
    shutil.copytree(float32, tmp_path / "torn")
    file = tmp_path / "torn/caption_decoder/language_model" / GGUF_FILE
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(EngineError, match=r"cannot read .*; write it again with vlv export gguf"):
        opened(tmp_path / "torn")


def test_requests_beyond_the_cache_wait_inside(engine: LlamaCppEngine, scenes: Encoded) -> None:
    """Three times as many as are written at once; all come out, each as it would alone."""
    many = engine.cache.rows * 3
    for key in range(many):
        engine.add(key, scenes.e[key % len(scenes.e)], Sampling(max_new_tokens=12))
    assert engine.room == engine.cache.rows - many
    found = parity.drain(engine, many)
    first = [found[key, 0].ids for key in range(len(scenes.e))]
    assert [found[key + len(scenes.e), 0].ids for key in range(len(scenes.e))] == first


def test_a_qwen3_writes_the_same_tokens(tmp_path: Path, scenes: Encoded) -> None:
    """Random weights, large enough for tokens to differ between images."""
    tokenizer = scenes.model.caption_decoder.tokenizer
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    width = scenes.c.shape[-1]
    decoder = CaptionDecoder(Qwen3ForCausalLM(config), tokenizer, width).eval()
    VLV.from_boxes(caption_decoder=decoder).save_pretrained(tmp_path / "model")
    export_gguf(load_model(tmp_path / "model"), tmp_path / "out", "f32")
    engine = opened(tmp_path / "out")
    with torch.inference_mode():
        e = decoder.psi(scenes.c[:4] * 5)
    found = parity.write(engine, list(e), Sampling(max_new_tokens=20))
    engine.close()
    expected = decoder.generate(scenes.c[:4] * 5, num_beams=1, max_new_tokens=20)
    made = [decoder.caption_of(one.ids, one.finish == "end") for _, one in sorted(found.items())]
    assert made == expected
    assert len({one.text for one in made}) > 1


def test_commands_give_the_captions_of_transformers(
    float32: Path, tmp_path: Path, vlv: Callable[..., Any]
) -> None:
    chosen = ("--model", float32, "--engine", "llama.cpp")
    said = parity.commands_give_the_captions_of_transformers(vlv, tmp_path, chosen)
    assert said.startswith("vlv: llama.cpp keeps 0.03 GB for keys and values, which is room for")
    # Another engine's job is another job.
    again = vlv(
        "bulk", tmp_path / "pictures", tmp_path / "out", "--model", float32, "--num-beams", 1
    )
    assert again.code == 2
    assert "engine" in again.err


def test_a_service_captions_with_the_engine_and_refuses_beams(
    float32: Path, scenes: Encoded
) -> None:
    model = load_model(float32)
    engine, prompts = EngineChoice("llama.cpp").open(model)
    events: list[Event] = []
    scheduler = Scheduler(model, events.append, 4, 1, engine, prompts)
    image = Image.fromarray(render(sample_scene(0, "test")))
    pixels = encoder_pixels(image, model.encoder.settings.image_size, None)
    job = CaptionJob(
        source=pixels,
        num_beams=1,
        max_new_tokens=TOKENS,
        min_new_tokens=0,
        temperature=0.0,
        top_p=1.0,
        seed=0,
        stream=False,
    )
    scheduler.handle(Submit(1, job))
    scheduler.handle(Submit(2, replace(job, num_beams=2)))
    while not scheduler.idle:
        scheduler.step()
    assert engine is not None
    engine.close()
    (done,) = [one for one in events if isinstance(one, Done)]
    (failed,) = [one for one in events if isinstance(one, Failed)]
    assert (done.id, done.result.caption) == (1, scenes.greedy[0])
    assert (failed.id, failed.param) == (2, "num_beams")
