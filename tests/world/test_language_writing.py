"""Captions: complete, true by their own reading, within their budgets, varied, repeatable."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from vlv.sentences import split_sentences
from vlv.world.forms import form_of
from vlv.world.language import (
    LONG_WORDS,
    SHORT_TOKENS,
    SHORT_WORDS,
    Verdict,
    caption_objects,
    counted_caption,
    judge,
    long_caption,
    read_caption,
    short_caption,
)
from vlv.world.lexicon import column_of, row_of, tokens_of
from vlv.world.phrases import phrases_of
from vlv.world.scene import SPLITS, Scene, sample_scene

Writer = Callable[[Scene, np.random.Generator], str]
WRITERS = (short_caption, long_caption)


@cache
def _scenes() -> list[tuple[int, Scene]]:
    return [(seed, sample_scene(seed, split)) for split in SPLITS for seed in range(200)]


@cache
def _captions(writer: Writer) -> list[tuple[Scene, str]]:
    return [(scene, writer(scene, np.random.default_rng(seed))) for seed, scene in _scenes()]


@pytest.mark.parametrize("writer", WRITERS)
def test_every_caption_reads_back_as_true_with_all_its_facts(writer: Writer) -> None:
    for scene, caption in _captions(writer):
        claims = read_caption(caption)
        verdicts = judge(claims, scene)
        assert set(verdicts) == {Verdict.TRUE}, caption
        described = [
            (o.shape, o.color, o.size, o.material, o.column, o.row) for o in caption_objects(claims)
        ]
        truth = [
            (o.shape, o.color, o.size, o.material, column_of(o.x), row_of(o.z))
            for o in scene.objects
        ]
        assert sorted(map(str, described)) == sorted(map(str, truth)), caption
        setting = {
            (claim.kind, claim.value) for claim in claims if claim.kind in ("floor", "light")
        }
        assert setting == {("floor", scene.floor), ("light", scene.light)}, caption


def test_short_captions_fit_the_text_tower() -> None:
    for scene, caption in _captions(short_caption):
        assert len(tokens_of(caption)) + 2 <= SHORT_TOKENS == 75, caption
        if len(scene.objects) <= 3:
            assert len(caption.split()) <= SHORT_WORDS, caption


def test_counted_captions_say_the_number_and_may_leave_objects_out() -> None:
    left_out = set()
    for seed, scene in _scenes():
        count = len(scene.objects)
        if count < 2:
            continue
        caption = counted_caption(scene, np.random.default_rng(seed))
        claims = read_caption(caption)
        assert set(judge(claims, scene)) == {Verdict.TRUE}, caption
        assert [claim.number for claim in claims if claim.kind == "count"] == [count], caption
        left_out.add((count, count - len(caption_objects(claims))))
        assert len(tokens_of(caption)) + 2 <= SHORT_TOKENS, caption
    assert left_out == {(count, left) for count in (2, 3, 4) for left in range(count + 1)}


def test_long_captions_tell_more() -> None:
    for scene, caption in _captions(long_caption):
        assert LONG_WORDS[0] <= len(caption.split()) <= LONG_WORDS[1], caption
        kinds = {claim.kind for claim in read_caption(caption)}
        assert "count" in kinds, caption
        objects = scene.objects
        if any(abs(a.x - b.x) >= 0.25 for a in objects for b in objects):
            assert "relation" in kinds, caption


@pytest.mark.parametrize(("writer", "at_least"), [(short_caption, 60), (long_caption, 100)])
def test_sentences_take_many_forms(writer: Writer, at_least: int) -> None:
    forms = {
        tuple(phrase.kind for phrase in phrases_of(sentence.removesuffix(".")) or ())
        for _, caption in _captions(writer)
        for sentence in split_sentences(caption)
    }
    assert None not in map(form_of, forms)
    assert len(forms) >= at_least


def test_objects_come_in_every_order() -> None:
    scene = sample_scene(0, "train")
    assert len(scene.objects) == 3
    orders = {
        tuple((o.shape, o.color) for o in caption_objects(read_caption(short_caption(scene, rng))))
        for rng in map(np.random.default_rng, range(100))
    }
    assert len(orders) == 6


def test_words_are_few_and_fact_words_are_those_of_the_scene() -> None:
    words = {
        word
        for writer in WRITERS
        for _, caption in _captions(writer)
        for word in tokens_of(caption)
    }
    assert len(words) < 150
    assert {word for word in words if not word.isalpha()} == {",", "."}
    assert "sphere" in words and "ball" not in words


@pytest.mark.parametrize("writer", WRITERS)
def test_sentences_start_with_capitals_and_end_with_full_stops(writer: Writer) -> None:
    for _, caption in _captions(writer):
        for sentence in split_sentences(caption):
            assert sentence[0].isupper() and sentence[1:].islower(), caption
            assert sentence.endswith("."), caption
        assert ".." not in caption and "  " not in caption and " ," not in caption


@pytest.mark.parametrize("writer", WRITERS)
def test_the_generator_alone_decides(writer: Writer) -> None:
    scene = sample_scene(7, "train")
    first = [writer(scene, np.random.default_rng(seed)) for seed in range(20)]
    assert first == [writer(scene, np.random.default_rng(seed)) for seed in range(20)]
    assert len(set(first)) > 15
