"""Reading back sentences that the writers would not write, or not of this scene."""

import numpy as np
import pytest

from vlv.sentences import split_sentences
from vlv.world.forms import form_of
from vlv.world.language import (
    CaptionObject,
    Claim,
    caption_objects,
    judge,
    long_caption,
    read_caption,
)
from vlv.world.phrases import phrases_of
from vlv.world.scene import sample_scene


def readable_share(text: str) -> float:
    """Share of a caption's sentences that can be read; 0 for an empty caption."""
    sentences = split_sentences(text)
    unreadable = sum(claim.kind == "unreadable" for claim in read_caption(text))
    return 1 - unreadable / len(sentences) if sentences else 0.0


def facts(caption: str) -> list[tuple[str, str | int | None]]:
    """(kind, what is said) of each claim, without subjects."""
    return [(claim.kind, _said(claim)) for claim in read_caption(caption)]


def _said(claim: Claim) -> str | int | None:
    if claim.kind == "object":
        return f"{claim.color} {claim.shape}"
    if claim.kind == "count":
        return f"{claim.number} {claim.value}".strip()
    return claim.value


def test_one_sentence_gives_one_claim_a_fact() -> None:
    assert facts("A small shiny red cube stands at the back left on a gray floor.") == [
        ("floor", "gray"),
        ("object", "red cube"),
        ("size", "small"),
        ("material", "shiny"),
        ("column", "left"),
        ("row", "back"),
    ]


@pytest.mark.parametrize(
    ("phrase", "column", "row"),
    [
        ("at the back left", "left", "back"),
        ("on the right at the front", "right", "front"),
        ("in the very middle", "middle", "middle"),
        ("in the middle of the front row", "middle", "front"),
        ("in the middle row on the left", "left", "middle"),
        ("in the middle row", None, "middle"),
        ("in the middle", "middle", None),
        ("on the right side of the middle row", "right", "middle"),
        ("at the front", None, "front"),
    ],
)
def test_places(phrase: str, column: str | None, row: str | None) -> None:
    expected = CaptionObject("cone", "blue", "large", "matte", column, row)
    for sentence in (
        f"A large matte blue cone rests {phrase}.",
        f"A large blue cone with a matte surface can be seen {phrase}.",
        f"{phrase.capitalize()} there is a blue cone that is large and matte.",
        f"The object {phrase} is a matte blue cone that is large.",
        f"We see a large blue cone that is matte {phrase}.",
    ):
        assert caption_objects(read_caption(sentence)) == [expected], sentence


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "A red.",
        "A small red cube stands at the",
        "A small red cube stands at the.",
        "A small red cube stands at the back left",
        "A small red cube stands stands at the back left.",
        "A small red blue cube stands at the back left.",
        "A small red cube that is large stands at the back left.",
        "A small red cube at the back left.",
        "A red small cube stands at the back left.",
        "A orange cube that is small stands at the back left.",
        "An red cube stands at the back left.",
        "There is a red cube at the back, a blue cone at the front.",
        "There are a red cube at the back.",
        "There is two objects in the picture.",
        "One of them are shiny.",
        "Two of them is shiny.",
        "A small red ball stands at the back left.",
        "A small red cube stands at the back left on the right.",
        "At the back left stands.",
        "The floor is large.",
        "The floor is gray and.",
        "Its surface is large.",
        "It is shiny.",
        "There is red cube at the back left.",
        "The red cube is to the left of.",
        "A small red cube stands at the back left and and a large blue cone at the front.",
        "Two of them are gray.",
        "A small red cube stands at the back left; the floor is gray.",
        "The scene is 3 objects.",
        "!!!",
    ],
)
def test_what_is_no_sentence_is_unreadable(sentence: str) -> None:
    assert {claim.kind for claim in read_caption(sentence)} <= {"unreadable"}
    assert readable_share(sentence) == 0
    assert bool(read_caption(sentence)) == bool(sentence)


def test_an_unreadable_sentence_does_not_spoil_the_others() -> None:
    caption = "A small red cube stands at the back left. Red red. The floor is gray. The light"
    kinds = [claim.kind for claim in read_caption(caption)]
    assert kinds == [
        *("object", "size", "column", "row"),
        "unreadable",
        "floor",
        "unreadable",
    ]
    assert [c.sentence for c in read_caption(caption) if c.kind == "unreadable"] == [1, 3]
    assert readable_share(caption) == 0.5


def test_a_known_object_is_not_described_again() -> None:
    caption = (
        "A small shiny red cube stands at the back left and a large blue cone at the front right. "
        "It is matte. The red cube is to the left of the cone and behind it."
    )
    claims = read_caption(caption)
    assert caption_objects(claims) == [
        CaptionObject("cube", "red", "small", "shiny", "left", "back"),
        CaptionObject("cone", "blue", "large", "matte", "right", "front"),
    ]
    assert [(c.subject, c.value, c.other) for c in claims if c.kind == "relation"] == [
        ((0,), "to the left of", (1,)),
        ((0,), "behind", (1,)),
    ]


def test_turned_relation_keeps_its_sense() -> None:
    caption = "There is a red cube and a blue cone. Behind the blue cone stands the red cube."
    (relation,) = [claim for claim in read_caption(caption) if claim.kind == "relation"]
    assert (relation.subject, relation.value, relation.other) == ((0,), "behind", (1,))


def test_an_object_introduced_twice_is_two_objects() -> None:
    caption = "There is a red cube at the back left. There is a red cube at the back left."
    assert len(caption_objects(read_caption(caption))) == 2


def test_a_name_that_was_never_introduced_is_a_new_object() -> None:
    caption = "There is a red cube at the back left. The blue cone is behind the red cube."
    described = [(o.color, o.shape) for o in caption_objects(read_caption(caption))]
    assert described == [("red", "cube"), ("blue", "cone")]


def test_a_name_with_another_quality_is_a_contradiction_not_an_object() -> None:
    caption = "There is a small red cube at the back left. The large red cube is in the back row."
    claims = read_caption(caption)
    assert [claim.value for claim in claims if claim.kind == "size"] == ["small", "large"]
    assert caption_objects(claims) == [CaptionObject("cube", "red", "small", None, "left", "back")]


def test_saying_a_fact_again_adds_no_claim() -> None:
    once = "The floor is gray. The light comes from the left."
    assert facts(f"{once} {once} The shadows fall to the right.") == facts(once)


def test_counts() -> None:
    assert facts("Three objects stand on a brown floor.") == [("floor", "brown"), ("count", "3")]
    assert facts("Two of them are shiny and one is matte.") == [
        ("count", "2 shiny"),
        ("count", "1 matte"),
    ]
    assert facts("All objects are small.") == [("count", "None small")]
    assert facts("Both of them are small.") == [("count", "2"), ("count", "2 small")]
    assert facts("There is a red cube. There is no other object in the picture.")[1] == (
        "count",
        "1",
    )


def test_several_objects_in_one_sentence() -> None:
    caption = (
        "On a black floor with light from the right, a red cube is at the front left, with a "
        "blue cone at the back and a white sphere in the middle."
    )
    assert facts(caption) == [
        ("floor", "black"),
        ("light", "right"),
        ("object", "red cube"),
        ("column", "left"),
        ("row", "front"),
        ("object", "blue cone"),
        ("row", "back"),
        ("object", "white sphere"),
        ("column", "middle"),
    ]


def test_shadows_tell_the_light() -> None:
    assert facts("The shadow falls to the left.") == [("light", "right")]
    assert facts("The light comes from the left, so the shadows fall to the left.") == [
        ("light", "left"),
        ("light", "right"),
    ]


def kinds(sentence: str) -> list[str] | None:
    phrases = phrases_of(sentence)
    return None if phrases is None else [phrase.kind for phrase in phrases]


def test_forms_ignore_facts() -> None:
    assert kinds("A small red cube stands at the back left") == ["new", "stands", "place"]
    assert kinds("A large shiny blue cone rests in the very middle") == ["new", "stands", "place"]
    assert kinds("At the back left stands a small red cube") == ["place", "stands", "new"]
    assert kinds("Small red cube stands") is None


@pytest.mark.parametrize(
    ("sentence", "form"),
    [
        ("The floor is gray, and the light comes from the left", "setting"),
        ("Two objects stand on a gray floor", "count"),
        ("There is no other object in the picture", "no other"),
        ("One of them is small and two are large", "share"),
        ("Its surface is matte", "quality"),
        ("The red cube is behind the blue cone and in front of it", "relation"),
        ("Behind the red cube stands the blue cone", "turned relation"),
        ("A red cube stands on the left, a cone on the right, and a sphere in the middle", "body"),
        ("The objects stand on a gray floor", None),
        ("A red cube stands on the left, a cone on the right", None),
        ("A red cube stand on the left", None),
    ],
)
def test_forms(sentence: str, form: str | None) -> None:
    assert form_of(kinds(sentence) or []) == form


def test_garbled_captions_are_read_without_failing_and_mostly_refused() -> None:
    rng = np.random.default_rng(0)
    whole = 0
    for seed in range(300):
        scene = sample_scene(seed, "test")
        words = long_caption(scene, rng).split()
        order = rng.permutation(len(words)) if seed % 3 == 0 else range(len(words))
        garbled = " ".join(words[i] for i in order if rng.random() < 0.8)
        claims = read_caption(garbled)
        assert len(judge(claims, scene)) == len(claims)
        assert len(caption_objects(claims)) == sum(claim.kind == "object" for claim in claims)
        whole += readable_share(garbled) > 0.5
    assert whole < 15
