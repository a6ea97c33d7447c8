from pathlib import Path

import pytest

from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)

TEXTS = ["A small red cube stands on the left.", "The floor is gray, the light is bright."] * 5
ODD = "Zürich's naïve 日本 café — 42%, über-quick 😀\tjackdaws?"
TRAINERS = [train_clip_tokenizer, train_qwen2_tokenizer, train_florence_tokenizer]


@pytest.mark.parametrize("train", TRAINERS)
def test_equal_texts_give_equal_tokens(train, tmp_path: Path) -> None:
    one, two = train(TEXTS), train(TEXTS)
    assert one.get_vocab() == two.get_vocab()
    one.save_pretrained(tmp_path / "one")
    two.save_pretrained(tmp_path / "two")
    first = (tmp_path / "one" / "tokenizer.json").read_bytes()
    assert first == (tmp_path / "two" / "tokenizer.json").read_bytes()
    loaded = type(one).from_pretrained(tmp_path / "one")
    for text in [*TEXTS, ODD]:
        assert loaded(text)["input_ids"] == one(text)["input_ids"]


@pytest.mark.parametrize("train", TRAINERS)
def test_the_vocabulary_keeps_to_its_size(train) -> None:
    tokenizer = train(TEXTS, vocab_size=530)
    assert len(tokenizer) <= 530
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


@pytest.mark.parametrize("train", TRAINERS)
def test_frequent_words_become_one_token(train) -> None:
    tokenizer = train(TEXTS, vocab_size=1000)
    whole = tokenizer("The floor is gray", add_special_tokens=False)["input_ids"]
    assert len(whole) == 4


@pytest.mark.parametrize("train", TRAINERS[1:])
def test_any_text_survives(train) -> None:
    tokenizer = train(TEXTS)
    ids = tokenizer(ODD, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == ODD


def test_clip_writes_any_byte_and_marks_both_ends() -> None:
    tokenizer = train_clip_tokenizer(TEXTS)
    ids = tokenizer(ODD)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[:-1]  # which is also the token for the unknown
    assert tokenizer.model_max_length == 77
    assert "zürich" in tokenizer.decode(ids)
