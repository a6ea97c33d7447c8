"""The engine in this process: the tokens of `generate`, and rows that come and go."""

import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vlv.data.world_sets import world_samples
from vlv.errors import ConfigError
from vlv.inference.engines import attention
from vlv.inference.engines.engine import CaptionEngine, Finish
from vlv.inference.engines.prompts import Prompts
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.transformers import TransformersEngine
from vlv.inference.engines.writing import Prompted, write_captions
from vlv.inference.records import Refused
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.precision import computes_bfloat16
from vlv.pipeline import VLV

Streams = dict[tuple[int, int], tuple[list[int], Finish | None]]


@pytest.fixture(scope="module")
def c(mini: VLV) -> Tensor:
    """What the caption decoder reads of 64 scenes."""
    scenes = [sample.picture() for sample in world_samples(64, seed=0, split="test")]
    return mini.read(mini.encode(scenes))


@pytest.fixture
def decoder(mini: VLV) -> CaptionDecoder:
    return mini.caption_decoder


def streams(engine: CaptionEngine, steps: int = 2000) -> Streams:
    """All tokens of the open requests, by key and sequence."""
    ids: dict[tuple[int, int], list[int]] = defaultdict(list)
    finished: dict[tuple[int, int], Finish | None] = {}
    for _ in range(steps):
        events = engine.step()
        for one in events:
            at = one.key, one.sequence
            assert finished.get(at) is None
            ids[at] += one.ids
            finished[at] = one.finish
        if not events:
            break
    return {at: (ids[at], finished[at]) for at in finished}


def texts(decoder: CaptionDecoder, c: Tensor, sampling: Sampling, max_rows: int) -> list[str]:
    prompts = Prompts.of(decoder)
    engine = TransformersEngine(decoder, max_rows)
    items = [Prompted(at, e, sampling) for at, e in enumerate(prompts.embed(c))]
    made = list(write_captions(engine, prompts, items))
    assert [at for at, _ in made] == list(range(len(c)))
    return [one.text for _, captions in made for one in captions]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_new_tokens": 45, "max_new_tokens": 50},
        {"max_new_tokens": 9},
        {"forced_start": "On a gray floor"},
        {"banned_words": ("sphere", "is at", "The")},
    ],
)
def test_the_most_likely_tokens_are_those_of_generate(
    decoder: CaptionDecoder, c: Tensor, settings: dict
) -> None:
    """For 64 images, of which 24 are written at once; and the settings for 6 of them."""
    c = c[:6] if settings else c
    expected = [one.text for one in decoder.generate(c, num_beams=1, **settings)]
    assert texts(decoder, c, Sampling(**settings), max_rows=4 if settings else 24) == expected


def test_sequences_end_as_generate_says(decoder: CaptionDecoder, c: Tensor) -> None:
    (whole,) = decoder.generate(c[:1], num_beams=1)
    for limit, ended in ((whole.tokens + 1, True), (whole.tokens, False)):
        engine = TransformersEngine(decoder, 1)
        engine.add(3, Prompts.of(decoder).embed(c[:1])[0], Sampling(max_new_tokens=limit))
        (((key, sequence), (ids, finish)),) = streams(engine).items()
        assert (key, sequence, finish) == (3, 0, "end" if ended else "length")
        assert decoder.caption_of(ids, finish == "end") == replace(whole, ended=ended)


def test_draws_depend_on_the_seed_and_the_sequence_alone(
    decoder: CaptionDecoder, c: Tensor
) -> None:
    e = Prompts.of(decoder).embed(c[:6])
    sampling = Sampling(temperature=1.5, top_p=0.9, sequences=3, max_new_tokens=12)

    def written(keys: Sequence[int], max_rows: int) -> Streams:
        engine = TransformersEngine(decoder, max_rows)
        for key in keys:
            engine.add(key, e[key], replace(sampling, seed=key))
        return streams(engine)

    together = written(range(6), 18)
    assert written(reversed(range(6)), 4) == together
    assert written([2], 1) == {at: one for at, one in together.items() if at[0] == 2}
    assert len({tuple(ids) for ids, _ in together.values()}) == 18


def test_a_request_continues_after_what_another_engine_wrote(
    decoder: CaptionDecoder, c: Tensor
) -> None:
    e = Prompts.of(decoder).embed(c[:1])[0]
    sampling = Sampling(temperature=1.0, seed=4, max_new_tokens=20, forced_start="On")
    engine = TransformersEngine(decoder, 1)
    engine.add(0, e, sampling)
    ids, finish = streams(engine)[0, 0]
    for count in (1, 7, len(ids)):
        engine.add(0, e, sampling, ids[:count])
        if count < 20 or finish == "length":
            assert streams(engine)[0, 0] == (ids[count:], finish)


def test_a_request_that_is_cancelled_leaves_the_others_alone(
    decoder: CaptionDecoder, c: Tensor
) -> None:
    e = Prompts.of(decoder).embed(c[:5])
    engine = TransformersEngine(decoder, 3)
    for key in range(5):
        engine.add(key, e[key], Sampling(max_new_tokens=15))
    assert engine.room == -2
    for _ in range(4):
        engine.step()
    engine.cancel(0)
    engine.cancel(4)
    engine.cancel(99)
    assert engine.room == 0
    ids = {key: one for (key, _), (one, _) in streams(engine).items()}
    assert set(ids) == {1, 2, 3} and engine.room == 3
    expected = [one.text for one in decoder.generate(c[3:4], num_beams=1, max_new_tokens=15)]
    assert [decoder.text_of(ids[3])] == expected


def test_images_join_while_others_are_written(decoder: CaptionDecoder, c: Tensor) -> None:
    """The next prompts are asked for as soon as a row is free, not when all are."""
    prompts = Prompts.of(decoder)
    engine = TransformersEngine(decoder, 2)
    in_progress = []

    def items() -> object:
        for at, e in enumerate(prompts.embed(c[:4])):
            in_progress.append(2 - engine.room)
            yield Prompted(at, e, Sampling(max_new_tokens=10 * (at + 1)))
        yield Refused("last", "unreadable", "it is damaged")

    made = list(write_captions(engine, prompts, items()))  # type: ignore[arg-type]
    assert in_progress == [0, 1, 1, 1]
    assert [len(captions) for _, captions in made] == [1, 1, 1, 1, 0]
    assert isinstance(made[-1][0], Refused)


def test_a_caption_longer_than_the_window_of_attention_is_refused(
    decoder: CaptionDecoder, c: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = decoder.lm.config
    monkeypatch.setattr(config, "layer_types", ["sliding_attention"] * config.num_hidden_layers)
    monkeypatch.setattr(config, "sliding_window", 100)
    engine = TransformersEngine(decoder, 1)
    e = Prompts.of(decoder).embed(c[:1])[0]
    with pytest.raises(ConfigError, match="looks back on 100 positions"):
        engine.add(0, e, Sampling(max_new_tokens=60))


def test_a_token_step_copies_no_keys(
    decoder: CaptionDecoder, c: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads of queries that share keys are computed together, whatever transformers does."""
    lengths = []

    def counting(module: object, query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        lengths.append(query.shape[2])
        return sdpa_attention_forward(module, query, *args, **kwargs)

    monkeypatch.setattr(attention, "sdpa_attention_forward", counting)
    assert decoder.lm.config.num_key_value_heads < decoder.lm.config.num_attention_heads
    engine = TransformersEngine(decoder, 2)
    for key, e in enumerate(Prompts.of(decoder).embed(c[:2])):
        engine.add(key, e, Sampling(max_new_tokens=5))
    streams(engine)
    assert set(lengths) == {c.shape[1]}  # of the prompts alone
    assert "sdpa_shared_keys" not in decoder.lm.config.to_json_string(use_diff=False)


def test_large_layers_are_packed_while_captions_are_written(mini: VLV) -> None:
    """With the same values before, meanwhile and after, where a CPU computes in bfloat16."""
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=1024,
        intermediate_size=1024,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    lm = Qwen2ForCausalLM(config).to(torch.bfloat16).eval()
    decoder = CaptionDecoder(lm, mini.caption_decoder.tokenizer, 32)
    layer = lm.model.layers[0].mlp.up_proj
    weights = {name: one.clone() for name, one in lm.state_dict().items()}
    x = torch.randn(2, 5, 1024).to(torch.bfloat16)
    with torch.inference_mode():
        expected = lm(inputs_embeds=x).logits
        engine = TransformersEngine(decoder, 2)
        assert torch.allclose(lm(inputs_embeds=x).logits, expected, atol=0.02)
    packed = lm.model.layers[0].mlp.up_proj is not layer
    x86 = platform.machine() in ("x86_64", "AMD64")
    assert packed == (x86 and computes_bfloat16(torch.device("cpu")))
    assert (layer.weight.numel() == 0) == packed
    # A head that shares its weight is in memory twice.
    assert (type(lm.get_output_embeddings()) is not torch.nn.Linear) == packed
    assert lm.get_input_embeddings().weight.numel() == config.vocab_size * 1024
    engine.close()
    assert lm.model.layers[0].mlp.up_proj is layer
    assert lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    assert all(torch.equal(one, weights[name]) for name, one in lm.state_dict().items())
