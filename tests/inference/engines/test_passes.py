"""Language models whose layers keep something else than keys and values, and those with ALiBi."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from tests.checkpoints.parts import LANGUAGE_MODELS, OTHER_LANGUAGE_MODELS
from tests.tiny import TEXTS
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from vlv.errors import ConfigError
from vlv.inference.engines.prompts import Prompts
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.transformers import TransformersEngine
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.tokenizers import train_qwen2_tokenizer

KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3_5_text": LANGUAGE_MODELS["qwen3_5_text"],
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bloom": {},
}


def decoder_of(kind: str, **sizes: Any) -> CaptionDecoder:
    torch.manual_seed(0)
    tokenizer = train_qwen2_tokenizer(TEXTS)
    config = AutoConfig.for_model(
        kind,
        **sizes,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer) + 5,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    lm = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in lm.parameters():  # so that captions depend on c
            parameter.mul_(3)
    return CaptionDecoder(lm, tokenizer, 16).eval()


@pytest.fixture(scope="module", params=list(KINDS))
def decoder(request: pytest.FixtureRequest) -> CaptionDecoder:
    return decoder_of(request.param, **KINDS[request.param])


@pytest.fixture(scope="module")
def c() -> Tensor:
    return torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(1))


def written(
    decoder: CaptionDecoder, c: Tensor, max_rows: int, **settings: Any
) -> dict[tuple[int, int], list[int]]:
    """The tokens of each c, of which each may have three more than the one before."""
    engine = TransformersEngine(decoder, max_rows)
    for key, e in enumerate(Prompts.of(decoder).embed(c)):
        engine.add(key, e, Sampling(**{"max_new_tokens": 4 + 3 * key, **settings}))
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    while events := engine.step():
        for one in events:
            found[one.key, one.sequence] += one.ids
    engine.close()
    return dict(found)


def test_rows_that_come_and_go_have_the_tokens_of_generate(
    decoder: CaptionDecoder, c: Tensor
) -> None:
    texts = [
        decoder.generate(c[key : key + 1], num_beams=1, max_new_tokens=4 + 3 * key)[0].text
        for key in range(len(c))
    ]
    assert len(set(texts)) == len(texts)
    for max_rows in (1, 3):
        found = written(decoder, c, max_rows)
        assert [decoder.text_of(found[key, 0]) for key in range(len(c))] == texts


def test_draws_do_not_depend_on_the_rows_beside_them(decoder: CaptionDecoder, c: Tensor) -> None:
    settings = {"temperature": 1.0, "sequences": 3, "max_new_tokens": 6}
    found = written(decoder, c, 12, **settings)
    assert written(decoder, c, 2, **settings) == found
    assert len({tuple(ids) for ids in found.values()}) > len(c)


def test_a_cancelled_row_leaves_the_others_alone(decoder: CaptionDecoder, c: Tensor) -> None:
    expected = written(decoder, c, 4)
    engine = TransformersEngine(decoder, 4)
    for key, e in enumerate(Prompts.of(decoder).embed(c)):
        engine.add(key, e, Sampling(max_new_tokens=4 + 3 * key))
    found: dict[int, list[int]] = defaultdict(list)
    for step in range(20):
        for one in engine.step():
            found[one.key] += one.ids
        if step == 1:
            engine.cancel(0)
    engine.close()
    assert {key: found[key] for key in (1, 2, 3)} == {key: expected[key, 0] for key in (1, 2, 3)}


def test_beams_begin_with_copies_of_what_was_read(decoder: CaptionDecoder, c: Tensor) -> None:
    """As they do where the library itself reads the prompt for every beam."""
    made = [one.text for one in decoder.generate(c, num_beams=3, max_new_tokens=6)]
    e = decoder.psi(c).detach()
    rows = decoder.lm.generate(
        inputs_embeds=e,
        attention_mask=torch.ones(e.shape[:2], dtype=torch.long),
        num_beams=3,
        max_new_tokens=6,
        do_sample=False,
    )
    end = int(decoder.tokenizer.eos_token_id)
    assert made == [decoder.text_of([id for id in row if id != end]) for row in rows.tolist()]


@pytest.mark.parametrize("kind", OTHER_LANGUAGE_MODELS)
def test_a_cache_of_another_form_is_refused(kind: str, c: Tensor) -> None:
    """Such a model would read every token as the first one."""
    decoder = decoder_of(kind, **OTHER_LANGUAGE_MODELS[kind])
    with pytest.raises(ConfigError, match=f"of the type {kind} keep their states in a cache"):
        TransformersEngine(decoder, 1)
    with pytest.raises(ConfigError, match="with which no captions can be written"):
        decoder.generate(c, num_beams=2, max_new_tokens=4)


def test_exchanged_tokens_are_read_as_in_captions_of_their_own(
    decoder: CaptionDecoder, c: Tensor
) -> None:
    """As verification reads the words that could stand in place of a caption's."""
    ids = [3, 8, 5, 9, 4]
    exchanged = [(at, token) for at in (0, 2, 4) for token in (6, 7)]
    following = [(*ids[1:], 2)[at] for at, _ in exchanged]
    with torch.no_grad():
        expected = [
            float(decoder.log_probabilities(c[:1], [*ids[:at], token, after])[at + 1, after].exp())
            for (at, token), after in zip(exchanged, following, strict=True)
        ]
        found = decoder.next_probabilities(c[:1], ids, exchanged, following)
    assert found.tolist() == pytest.approx(expected, rel=1e-3)
    assert len(set(expected)) == len(expected)
