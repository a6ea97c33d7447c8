"""Word pieces that the base has not learned: which they are, and that a fine-tune spells them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.finetuning.style import FIRST_SEED, held_out, precision

from vlv.checkpoints.adapters import (
    LoraSettings,
    add_lora,
    apply_adapter,
    linear_names,
    save_lora,
    save_psi,
    trained_rows,
    word_tables,
)
from vlv.errors import CheckpointError, ConfigError
from vlv.models.caption_decoder import CaptionDecoder
from vlv.pipeline import VLV
from vlv.training.finetuning.word_pieces import unlearned_pieces, word_pieces_of_run
from vlv.world.captions import long_caption
from vlv.world.render import render
from vlv.world.scene import sample_scene


def test_pieces_of_a_made_up_word_are_found_and_words_of_the_world_are_not() -> None:
    model = VLV.from_pretrained("vlv-mini", device="cpu")
    scenes = [sample_scene(FIRST_SEED + number) for number in range(8)]
    texts = [long_caption(scene, np.random.default_rng(0)) for scene in scenes]
    with torch.no_grad():
        c = model.read(model.encode([Image.fromarray(render(scene)) for scene in scenes]))

    def found(begin: str) -> list[int]:
        captions = [(begin + text, partial(c.__getitem__, [at])) for at, text in enumerate(texts)]
        return unlearned_pieces(model.caption_decoder, captions, 128)

    tokenizer = model.caption_decoder.tokenizer
    spelled, plain = set(tokenizer("Glimp")["input_ids"]), set(found(""))
    assert spelled <= set(found("Glimp, "))
    assert not plain & spelled
    assert not plain & set(tokenizer(" red cube on the left")["input_ids"])


def test_a_run_that_goes_on_keeps_its_pieces(tmp_path: Path) -> None:
    path = tmp_path / "word_pieces.json"
    assert word_pieces_of_run(path, lambda: [3, 5]) == [3, 5]
    assert word_pieces_of_run(path, lambda: [7]) == [3, 5]
    path.write_text('{"word_pieces": "none"}')
    with pytest.raises(ConfigError, match="word_pieces"):
        word_pieces_of_run(path, lambda: [7])


@pytest.mark.parametrize("tied", [True, False])
def test_trained_rows_are_read_by_peft_and_put_into_the_tables(
    tiny_model_dir: Path, tmp_path: Path, tied: bool
) -> None:
    from peft import PeftModel

    base, tuned, opened, quantized = (_decoder(tiny_model_dir, tied) for _ in range(4))
    tables = word_tables(base.lm)
    assert len(tables) == (1 if tied else 2)
    settings = LoraSettings(
        r=2,
        lora_alpha=4,
        target_modules=linear_names(base.lm),
        trainable_token_indices={name: [4, 9] for name in tables},
    )
    add_lora(tuned.lm, settings)
    for number, rows in enumerate(trained_rows(tuned.lm)):
        assert rows.shape == (2, 16)
        rows.data += 1 + number
    save_lora(tuned.lm, settings, tmp_path)
    save_psi(tuned.psi, tmp_path)

    ids = torch.tensor([[3, 4, 9, 5]])
    expected = tuned.lm(input_ids=ids).logits
    apply_adapter(opened, tmp_path, quantized=False)
    apply_adapter(quantized, tmp_path, quantized=True)
    by_peft = PeftModel.from_pretrained(base.lm, tmp_path)
    for lm in (opened.lm, quantized.lm, by_peft):
        assert torch.allclose(lm(input_ids=ids).logits, expected, atol=1e-5)

    other = settings.model_copy(update={"trainable_token_indices": {tables[0]: [10**6]}})
    (tmp_path / "adapter_config.json").write_text(other.model_dump_json())
    with pytest.raises(CheckpointError, match="it is an adapter of another one"):
        apply_adapter(_decoder(tiny_model_dir, tied), tmp_path, quantized=False)


def _decoder(model: Path, tied: bool) -> CaptionDecoder:
    """With the same weights each time."""
    torch.manual_seed(0)
    tokenizer = VLV.from_pretrained(model, device="cpu").caption_decoder.tokenizer
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    made = CaptionDecoder.from_config(
        {"model_type": "qwen2", **sizes, **heads, "tie_word_embeddings": tied}, tokenizer, 16
    )
    return made.eval()


@pytest.mark.slow
@pytest.mark.parametrize("word", ["Rendered", "Glimp"])
def test_the_mini_learns_to_spell_a_new_word(
    vlv: Callable[..., Any], tmp_path: Path, word: str
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "mine"
    assert vlv("world", "render", "--count", "50", "--seed", "7", "--out", photos).code == 0
    assert vlv("finetune", "vlv-mini", photos, "--out", out, "--trigger", word).code == 0
    scenes, pictures = held_out(100)
    before, after = (
        VLV.from_pretrained(model).caption(pictures, num_beams=1) for model in ("vlv-mini", out)
    )
    begun = sum(one.startswith(f"{word}, ") for one in after)
    was, now = (precision(captions, scenes, f"{word},") for captions in (before, after))
    print(f"{word}: {begun} of 100 captions begin with it; precision {was:.3f}, then {now:.3f}")
    assert begun >= 95
    assert now >= was - 0.04
