"""`vlv export gguf`: what the file holds, and what is refused.

What llama.cpp makes of the file is tested with its engine. Needs an environment with
llama-cpp-python (`.ci/nightly` makes it).
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import TEXTS, TINY, build_vlv
from transformers import AutoTokenizer

from vlv.checkpoints.opening import load_model
from vlv.errors import CheckpointError, ConfigError
from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)

pytestmark = pytest.mark.engines
LANGUAGE_MODEL = "caption_decoder/language_model"
# In composed characters: llama.cpp does not compose them, as Qwen2's tokenizer does.
QUESTION = "Two red cubes; 3 ZEBRAS, and a caf\u00e9?\n"


def fields(file: Path) -> tuple[dict[str, object], dict[str, object]]:
    import gguf

    reader = gguf.GGUFReader(file)
    values = {name: field.contents() for name, field in reader.fields.items()}
    return values, {one.name: one for one in reader.tensors}


def test_the_file_holds_weights_and_tokenizer(tmp_path: Path) -> None:
    from vlv.checkpoints.gguf import export_gguf

    model = load_model("vlv-mini")
    assert export_gguf(model, tmp_path / "out", "f32") is None
    assert model.loaded == []
    out = tmp_path / "out"
    assert sorted(one.name for one in out.iterdir()) == [
        "caption_decoder",
        "encoder",
        "ood_detector",
        "text_tower",
        "vlv.json",
    ]
    values, tensors = fields(out / LANGUAGE_MODEL / "model.gguf")
    assert values["general.architecture"] == "qwen2"
    assert values["qwen2.attention.head_count_kv"] == 2
    assert values["tokenizer.ggml.eos_token_id"] == 492
    assert model.folder is not None
    stored = load_file(model.folder / LANGUAGE_MODEL / "model.safetensors")
    assert len(stored) == len(tensors)
    weight = torch.from_numpy(tensors["blk.3.ffn_down.weight"].data.copy())
    assert torch.equal(weight, stored["model.layers.3.mlp.down_proj.weight"].float())
    # The other parts open; the language model says where it is.
    opened = load_model(out)
    assert opened.encoder is not None
    with pytest.raises(CheckpointError, match=r"--engine llama\.cpp"):
        _ = opened.caption_decoder


def test_llama_cpp_takes_texts_apart_into_the_same_tokens(tmp_path: Path) -> None:
    import llama_cpp

    from vlv.checkpoints.gguf import export_gguf

    export_gguf(load_model("vlv-mini"), tmp_path / "out", "f16")
    folder = tmp_path / "out" / LANGUAGE_MODEL
    llama = llama_cpp.Llama(str(folder / "model.gguf"), vocab_only=True, verbose=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert llama.tokenize(QUESTION.encode(), add_bos=False) == tokenizer(QUESTION)["input_ids"]


def test_q4_k_m_of_wide_rows_is_four_bits_and_of_narrow_ones_a_note(tmp_path: Path) -> None:
    from vlv.checkpoints.gguf import export_gguf

    note = export_gguf(load_model("vlv-mini"), tmp_path / "narrow", "q4_k_m")
    assert note is not None and "192 values are no multiple of 256" in note
    torch.manual_seed(0)
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
    config = {**TINY, "language_model": {**TINY["language_model"], **wide}}
    model = build_vlv(
        VLVConfig.model_validate(config),
        encoder_tokenizer=train_florence_tokenizer(TEXTS),
        text_tokenizer=train_clip_tokenizer(TEXTS),
        language_tokenizer=train_qwen2_tokenizer(TEXTS),
    )
    model.save_pretrained(tmp_path / "wide")
    assert export_gguf(load_model(tmp_path / "wide"), tmp_path / "out", "q4_k_m") is None
    _, tensors = fields(tmp_path / "out" / LANGUAGE_MODEL / "model.gguf")
    kinds = Counter(one.tensor_type.name for one in tensors.values() if "blk" in one.name)
    assert kinds["Q4_K"] >= 8 and kinds["Q6_K"] >= 1
    assert not {"Q5_0", "Q5_1", "Q8_0"} & set(kinds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma2"}, "is a gemma2, where this writes qwen2 and qwen3"),
        ({"use_sliding_window": True}, "attends through a sliding window"),
    ],
)
def test_other_language_models_are_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    from vlv.checkpoints.gguf import export_gguf

    folder = load_model("vlv-mini").folder
    assert folder is not None
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / LANGUAGE_MODEL / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        export_gguf(load_model(tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
