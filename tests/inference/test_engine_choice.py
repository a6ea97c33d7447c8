"""The choice of an engine, what stays of the caption decoder here, and what is said where an engine
is missing. None of these needs one.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model_dir

from vlv.checkpoints.opening import load_model
from vlv.checkpoints.prompt_parts import load_prompt_parts
from vlv.errors import ConfigError
from vlv.inference.captioning import CaptionSettings
from vlv.inference.engine_choice import EngineChoice

__all__ = ["tiny_model_dir"]


def test_a_language_model_on_a_server_takes_no_memory_here() -> None:
    assert "caption_decoder" in EngineChoice("vllm").boxes_here
    assert EngineChoice("vllm", "http://127.0.0.1:8000/v1").boxes_here == ("encoder", "text_tower")


def test_what_stays_here_is_psi_the_tokenizer_and_rows_of_embeddings(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir)
    parts = load_prompt_parts(model)
    assert "caption_decoder" not in model.loaded
    decoder = model.caption_decoder
    c = torch.randn(2, 6, 16)
    assert torch.equal(parts.psi(c), decoder.psi(c))
    ids = [3, 0, 3]
    rows = decoder.lm.get_input_embeddings()(torch.tensor(ids))
    assert torch.equal(parts.token_embeddings(ids, torch.float32), rows)
    assert parts.token_embeddings([], torch.float32).shape == (0, parts.width)
    assert parts.tokenizer.eos_token_id == decoder.tokenizer.eos_token_id


def test_beams_are_refused_and_not_the_default() -> None:
    vllm = EngineChoice("vllm")
    assert vllm.settings(CaptionSettings()).beams == 1
    assert EngineChoice().settings(CaptionSettings()).beams == 4
    with pytest.raises(ConfigError, match="4 beams were asked for; set --num-beams 1, or use"):
        vllm.settings(CaptionSettings(num_beams=4))


def test_an_address_is_of_vllm_alone() -> None:
    with pytest.raises(ConfigError, match="add --engine vllm, or leave it out"):
        EngineChoice("llama.cpp", "http://127.0.0.1:8000/v1")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("vllm", "vllm", "vllm"), ("llama.cpp", "llama_cpp", "llama-cpp")],
)
def test_a_missing_engine_is_named_with_its_extra(
    name: str,
    package: str,
    extra: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    if name == "llama.cpp":
        with pytest.raises(ConfigError, match=r"holds no model\.gguf, which llama\.cpp needs"):
            EngineChoice("llama.cpp").open(load_model(folder))
        (folder / "caption_decoder/language_model/model.gguf").touch()
    with pytest.raises(ConfigError, match=rf"pip install 'vlv\[{extra}\]'"):
        EngineChoice(name).open(load_model(folder))  # type: ignore[arg-type]


def test_what_is_of_transformers_is_refused(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir, offload=True)
    with pytest.raises(ConfigError, match="--quantization and --offload are of the engine trans"):
        EngineChoice("vllm").open(model)


def test_the_command_line_says_it_in_a_line(vlv: Callable, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    ran = vlv("caption", tmp_path, "--engine", "vllm", "--num-beams", "2")
    assert ran.code == 2
    assert ran.err == (
        "vlv: --engine vllm has no beam search, and 2 beams were asked for; set --num-beams 1, or "
        "use --engine transformers\n"
    )
