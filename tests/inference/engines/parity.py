"""What every engine has to do, whatever runs the language model; each engine's tests call these."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.inference.engines.conftest import MINI, TOKENS, Encoded
from torch import Tensor

from vlv.errors import ConfigError
from vlv.inference.engines.engine import CaptionEngine, Finish, NewTokens, RequestFailed
from vlv.inference.engines.sampling import Sampling, TokenRules
from vlv.inference.engines.transformers import TransformersEngine
from vlv.models.outputs import Caption


@dataclass
class Written:
    """One sequence as its events tell it."""

    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None


def take(event: NewTokens | RequestFailed, found: dict[tuple[int, int], Written]) -> None:
    assert isinstance(event, NewTokens), event
    one = found.setdefault((event.key, event.sequence), Written())
    assert one.finish is None, "an event after the last one"
    one.ids += event.ids
    one.finish = event.finish


def drain(engine: CaptionEngine, sequences: int) -> dict[tuple[int, int], Written]:
    """All that the open requests become, which have so many sequences together."""
    found: dict[tuple[int, int], Written] = {}
    while len(found) < sequences or not all(one.finish for one in found.values()):
        for event in engine.step():
            take(event, found)
    assert engine.step() == [], "open requests are left"
    return found


def write(
    engine: CaptionEngine, e: Sequence[Tensor], sampling: Sampling
) -> dict[tuple[int, int], Written]:
    for key, one in enumerate(e):
        engine.add(key, one, sampling)
    return drain(engine, len(e) * sampling.sequences)


def captions(
    scenes: Encoded, found: dict[tuple[int, int], Written], start: str = ""
) -> list[Caption]:
    decoder = scenes.model.caption_decoder
    ids = decoder.tokenizer(start, add_special_tokens=False)["input_ids"] if start else []
    return [
        decoder.caption_of(one.ids, one.finish == "end", ids) for _, one in sorted(found.items())
    ]


def greedy_tokens_are_those_of_transformers(engine: CaptionEngine, scenes: Encoded) -> None:
    room = engine.room
    found = write(engine, list(scenes.e), Sampling(max_new_tokens=TOKENS))
    assert captions(scenes, found) == scenes.greedy
    assert any(one.ended for one in scenes.greedy)
    assert engine.room == room


def forced_starts_and_banned_words_are_those_of_transformers(
    engine: CaptionEngine, scenes: Encoded
) -> None:
    start, banned = "There is a small", ("red", "on a", "large matte")
    some = 8
    expected = scenes.model.caption_decoder.generate(
        scenes.c[:some], num_beams=1, max_new_tokens=TOKENS, forced_start=start, banned_words=banned
    )
    sampling = Sampling(max_new_tokens=TOKENS, forced_start=start, banned_words=banned)
    assert captions(scenes, write(engine, list(scenes.e[:some]), sampling), start) == expected
    assert [one.text for one in expected] != [one.text for one in scenes.greedy[:some]]
    assert any("red" in one.text.lower() for one in scenes.greedy[:some])


def lengths_are_kept(engine: CaptionEngine, scenes: Encoded) -> None:
    """A caption that is cut is no end, and one may not end before its least length."""
    found = write(engine, list(scenes.e[:4]), Sampling(max_new_tokens=7))
    assert all(len(one.ids) == 7 and one.finish == "length" for one in found.values())
    least = max(one.tokens for one in scenes.greedy[:2] if one.ended) + 5
    found = write(engine, list(scenes.e[:2]), Sampling(TOKENS, min_new_tokens=least))
    assert all(len(one.ids) >= least for one in found.values())


def samples_follow_their_seed(engine: CaptionEngine, scenes: Encoded) -> None:
    """The same seed gives the same texts, whatever runs beside; sequences and seeds differ."""
    sampling = Sampling(60, temperature=1.0, top_p=0.95, seed=3, sequences=3)
    alone = write(engine, [scenes.e[0]], sampling)
    together = write(engine, list(scenes.e[:3]), sampling)
    assert [together[0, n].ids for n in range(3)] == [alone[0, n].ids for n in range(3)]
    assert len({tuple(alone[0, n].ids) for n in range(3)}) == 3
    other = write(engine, [scenes.e[0]], Sampling(60, temperature=1.0, top_p=0.95, seed=4))
    assert other[0, 0].ids not in [alone[0, n].ids for n in range(3)]


def cancelled_requests_leave_the_others(engine: CaptionEngine, scenes: Encoded) -> None:
    room = engine.room
    for key in range(3):
        least = 400 if key == 1 else 0  # so that it is not done before it is cancelled
        engine.add(key, scenes.e[key], Sampling(400, min_new_tokens=least))
    found: dict[tuple[int, int], Written] = {}
    while len(found) < 3:
        for event in engine.step():
            take(event, found)
    engine.cancel(1)
    engine.cancel(1)  # once more is no fault
    assert len(found.pop((1, 0)).ids) < 400
    while not all(one.finish for one in found.values()):
        for event in engine.step():
            take(event, found)
    assert sorted(found) == [(0, 0), (2, 0)]
    # Where their captions end before that, they are those that were cut at TOKENS tokens.
    assert all(scenes.greedy[key].ended for key in (0, 2))
    assert captions(scenes, found) == [scenes.greedy[0], scenes.greedy[2]]
    assert engine.room == room


def a_written_caption_goes_on(engine: CaptionEngine, scenes: Encoded) -> None:
    """What another engine wrote is not written again, and greedy tokens go on the same."""
    whole = write(engine, [scenes.e[2]], Sampling(max_new_tokens=TOKENS))[0, 0]
    half = len(whole.ids) // 2
    engine.add(5, scenes.e[2], Sampling(max_new_tokens=TOKENS), whole.ids[:half])
    rest = drain(engine, 1)[5, 0]
    assert (rest.ids, rest.finish) == (whole.ids[half:], whole.finish)


def what_does_not_fit_is_refused(engine: CaptionEngine, scenes: Encoded) -> None:
    with pytest.raises(ConfigError, match="set --max-new-tokens to at most 435"):
        engine.add(0, scenes.e[0], Sampling(max_new_tokens=436))
    assert engine.step() == []


def penalties_are_those_of_transformers(engine: CaptionEngine, scenes: Encoded) -> None:
    """Against repetition, presence and frequency; each of them changes captions."""
    e = list(scenes.e[:8])
    ours = TransformersEngine(scenes.model.caption_decoder, len(e))
    for rules in (
        TokenRules(repetition_penalty=1.3),
        TokenRules(presence_penalty=1.5),
        TokenRules(frequency_penalty=0.8),
    ):
        sampling = Sampling(max_new_tokens=TOKENS, rules=rules)
        found = captions(scenes, write(engine, e, sampling))
        assert found == captions(scenes, write(ours, e, sampling))
        assert found != scenes.greedy[: len(e)]
    ours.close()


def a_single_candidate_is_the_most_likely_token(engine: CaptionEngine, scenes: Encoded) -> None:
    """Of what is drawn at a high temperature, which gives other captions without the rule."""
    e = list(scenes.e[:8])
    warm = {"max_new_tokens": TOKENS, "temperature": 1.5, "seed": 2}
    for rules in (TokenRules(top_k=1), TokenRules(min_p=1.0)):
        found = write(engine, e, Sampling(**warm, rules=rules))
        assert captions(scenes, found) == scenes.greedy[: len(e)]
    found = write(engine, e, Sampling(**warm, rules=TokenRules(top_k=20, min_p=0.001)))
    assert captions(scenes, found) != scenes.greedy[: len(e)]


every_engine = pytest.mark.parametrize(
    "holds",
    [
        greedy_tokens_are_those_of_transformers,
        forced_starts_and_banned_words_are_those_of_transformers,
        lengths_are_kept,
        samples_follow_their_seed,
        cancelled_requests_leave_the_others,
        a_written_caption_goes_on,
        what_does_not_fit_is_refused,
        penalties_are_those_of_transformers,
        a_single_candidate_is_the_most_likely_token,
    ],
)
"""For a test that calls `holds` with an engine and the scenes."""


def commands_give_the_captions_of_transformers(
    vlv: Callable[..., Any], folder: Path, chosen: Sequence[object]
) -> str:
    """`vlv caption` and `vlv bulk` with the options `chosen`; returns what the first one says on
    standard error. Pictures and captions are in `folder`.
    """
    pictures = folder / "pictures"
    assert vlv("world", "render", "--out", pictures, "--count", 5, "--workers", 1).code == 0
    images = sorted(pictures.glob("*.png"))
    greedy = vlv("caption", *images, "--model", MINI, "--num-beams", 1).out
    ran = vlv("caption", *images, *chosen)
    assert (ran.code, ran.out) == (0, greedy), ran.err
    bulk = vlv("bulk", pictures, folder / "out", *chosen)
    assert bulk.code == 0, bulk.err
    lines = (folder / "out/metadata.jsonl").read_text().splitlines()
    texts = [line.split("\t")[1] for line in greedy.splitlines()]
    assert [json.loads(line)["text"] for line in lines] == texts
    said: str = ran.err
    return said
