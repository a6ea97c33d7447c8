"""Questions are true to their scene in their English; the reader answers what captions tell."""

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from vlv.errors import WorldError
from vlv.sentences import split_sentences
from vlv.world.language import (
    MARGIN,
    MOST_QUESTIONS,
    QUESTION_KINDS,
    UNKNOWN,
    CaptionReader,
    Question,
    Verdict,
    judge,
    long_caption,
    questions_about,
    read_caption,
    short_caption,
)
from vlv.world.lexicon import NUMBERS, RELATIONS
from vlv.world.questions import YES_NO, Description
from vlv.world.scene import COLORS, HELD_OUT_PAIRS, SPLITS, Scene, SceneObject, sample_scene

# With a seed of its own for each.
SCENES = [
    (sample_scene(index, split), 100 * number + index)
    for number, split in enumerate(SPLITS)
    for index in range(60)
]


def ask(scene: Scene, seed: int, count: int = 12) -> list[Question]:
    return questions_about(scene, count, np.random.default_rng(seed))


# --- the truth, from the English alone


def meant(scene: Scene, words: str) -> list[SceneObject]:
    """The objects that a noun phrase of a question fits."""
    return [
        obj
        for obj in scene.objects
        if {*words.split()} <= {obj.size, obj.material, obj.color, obj.shape, "object"}
    ]


def the(scene: Scene, words: str) -> SceneObject:
    (obj,) = meant(scene, words)
    return obj


def related(scene: Scene, first: str, relation: str, second: str) -> bool:
    a, b = the(scene, first), the(scene, second)
    assert a is not b
    gap = a.x - b.x if relation.startswith("to the") else a.z - b.z
    assert abs(gap) > MARGIN
    return gap < 0 if relation in ("to the left of", "in front of") else gap > 0


TRUTHS: dict[str, Callable[..., object]] = {
    r"Is there an? (.+)\?": lambda s, words: bool(meant(s, words)),
    r"How many (.+)s are there\?": lambda s, words: len(meant(s, words)),
    r"What (color|shape) is the (?!floor)(.+)\?": lambda s, fact, who: getattr(the(s, who), fact),
    r"Is the (.+) small or large\?": lambda s, who: the(s, who).size,
    r"Is the (.+) matte or shiny\?": lambda s, who: the(s, who).material,
    r"Are there more (.+)s than (.+)s\?": lambda s, a, b: len(meant(s, a)) > len(meant(s, b)),
    r"Is the (.+) the same size as the (.+)\?": lambda s, a, b: the(s, a).size == the(s, b).size,
    rf"Is the (.+) ({'|'.join(RELATIONS)}) the (.+)\?": related,
    r"What color is the floor\?": lambda s: s.floor,
    r"Which side does the light come from\?": lambda s: s.light,
}


def truth(scene: Scene, text: str) -> str:
    found = [
        (match, of)
        for form, of in TRUTHS.items()
        if (match := re.fullmatch(form, text)) is not None
    ]
    ((match, of),) = found
    answer = of(scene, *match.groups())
    return {True: "yes", False: "no"}[answer] if isinstance(answer, bool) else str(answer)


def test_every_answer_is_the_truth_of_its_english() -> None:
    for scene, seed in SCENES:
        for question in ask(scene, seed):
            assert question.answer == truth(scene, question.text), (question, scene)
            assert question.answer in question.choices


def test_a_name_hints_at_no_answer() -> None:
    for scene, seed in SCENES:
        for question in ask(scene, seed):
            hidden = question.fact if question.kind in ("attribute", "comparison") else ""
            assert hidden not in {*question.first.facts, *question.second.facts}


def test_questions_are_different_and_repeatable() -> None:
    for scene, seed in SCENES[::10]:
        questions = ask(scene, seed)
        assert len({question.text for question in questions}) == 12
        assert questions == ask(scene, seed)
        assert questions != ask(scene, seed + 1)


def test_kinds_are_asked_evenly_where_the_scene_allows() -> None:
    for scene, seed in SCENES:
        kinds = Counter(question.kind for question in ask(scene, seed, len(QUESTION_KINDS)))
        assert kinds["floor"] == kinds["light"] == 1
        if len(scene.objects) > 2:
            assert max(kinds.values()) <= 2
            assert len(kinds) >= len(QUESTION_KINDS) - 1


def test_yes_and_no_are_balanced() -> None:
    answers: dict[str, Counter[str]] = {}
    for scene, seed in SCENES:
        for question in ask(scene, seed, 10):
            if question.choices == YES_NO:
                answers.setdefault(question.kind, Counter())[question.answer] += 1
    assert set(answers) == {"existence", "comparison", "relation"}
    for kind, counts in answers.items():
        assert 0.44 < counts["yes"] / counts.total() < 0.56, kind


def test_what_is_not_there_could_be_there() -> None:
    for scene, seed in SCENES:
        for question in ask(scene, seed):
            asked = question.first
            if question.kind == "existence" and question.answer == "no":
                assert asked.color != scene.floor
                assert (asked.shape, asked.color) not in HELD_OUT_PAIRS


def test_the_most_questions_can_be_asked_of_any_scene_and_no_more() -> None:
    for scene, seed in SCENES[:20]:
        assert len(ask(scene, seed, MOST_QUESTIONS)) == MOST_QUESTIONS
    with pytest.raises(WorldError, match="31"):
        ask(SCENES[0][0], 0, MOST_QUESTIONS + 1)


# --- answers from captions

CUBE, BALL = Description(color="red", shape="cube"), Description(color="blue", shape="sphere")
SMALL_CUBE, SMALL = Description(size="small", shape="cube"), Description(size="small")
FLOOR = Question("floor", "", "", ())
LIGHT = Question("light", "", "", ())
TWO = "A small red cube stands on the left at the back, and a blue sphere at the front left."


def there(what: Description) -> Question:
    return Question("existence", "", "", YES_NO, first=what)


def number(what: Description) -> Question:
    return Question("count", "", "", (), first=what)


def attribute(fact: str, what: Description) -> Question:
    return Question("attribute", "", "", (), fact, what)


def compared(fact: str, a: Description, b: Description) -> Question:
    return Question("comparison", "", "", YES_NO, fact, a, b)


def relation(a: Description, words: str, b: Description) -> Question:
    return Question("relation", "", "", YES_NO, words, a, b)


CUBES_AND_SPHERE = (
    "A red cube is at the back left, a blue cube at the front left, and a green sphere "
    "on the right in the middle row."
)
CUBES, SPHERES = Description(shape="cube"), Description(shape="sphere")


@pytest.mark.parametrize(
    ("caption", "question", "answer"),
    [
        # What is not mentioned is not there.
        (TWO, there(CUBE), "yes"),
        (TWO, there(Description(color="red", shape="sphere")), "no"),
        ("", there(CUBE), "no"),
        (TWO, number(Description()), "2"),
        (TWO, number(CUBES), "1"),
        ("", number(Description()), "0"),
        # What is mentioned without the fact may have it.
        (TWO, there(Description(size="small", shape="sphere")), UNKNOWN),
        (TWO, number(SMALL), UNKNOWN),
        (TWO, there(Description(size="large", shape="cube")), "no"),
        # A number of objects counts, and tells that there are more than those described.
        (f"There are three objects in the picture. {TWO}", number(Description()), "3"),
        (f"There are three objects in the picture. {TWO}", number(CUBES), UNKNOWN),
        (f"There are three objects in the picture. {TWO}", there(CUBE), "yes"),
        (f"There are three objects in the picture. {TWO}", there(Description("large")), UNKNOWN),
        (f"There are two objects in the picture. {TWO}", there(Description(shape="cone")), "no"),
        (f"{TWO} Both of them are small.", number(SMALL), "2"),
        (f"{TWO} One of them is small and one is large.", number(SMALL), "1"),
        (f"{TWO} All objects are small.", number(SMALL), "2"),
        # Attributes of the one object that is meant.
        (TWO, attribute("size", CUBE), "small"),
        (TWO, attribute("size", BALL), UNKNOWN),
        (TWO, attribute("color", SMALL_CUBE), "red"),
        # The only object that can be the large sphere; two that can be the small object, one sure.
        (TWO, attribute("color", Description(size="large", shape="sphere")), "blue"),
        (TWO, attribute("color", SMALL), "red"),
        (TWO, attribute("color", Description(material="shiny")), UNKNOWN),
        (TWO, attribute("material", Description(shape="cone")), UNKNOWN),
        (f"There are three objects in the picture. {TWO}", attribute("color", CUBES), "red"),
        (
            f"There are three objects in the picture. {TWO}",
            attribute("shape", Description(size="large")),
            UNKNOWN,
        ),
        # Comparisons.
        (TWO, compared("number", CUBES, SPHERES), "no"),
        (TWO, compared("number", CUBES, Description(shape="cone")), "yes"),
        ("There is a cube.", compared("number", SMALL_CUBE, SPHERES), UNKNOWN),
        (TWO, compared("size", CUBE, BALL), UNKNOWN),
        (f"{TWO} The sphere is large.", compared("size", CUBE, BALL), "no"),
        (f"{TWO} The sphere is small.", compared("size", CUBE, BALL), "yes"),
        # Relations: from rows and columns, from claims either way round, or not at all.
        (TWO, relation(CUBE, "behind", BALL), "yes"),
        (TWO, relation(CUBE, "in front of", BALL), "no"),
        (TWO, relation(BALL, "in front of", CUBE), "yes"),
        (TWO, relation(CUBE, "to the left of", BALL), UNKNOWN),
        (
            f"{TWO} The cube is to the left of the sphere.",
            relation(CUBE, "to the left of", BALL),
            "yes",
        ),
        (
            f"{TWO} The cube is to the left of the sphere.",
            relation(CUBE, "to the right of", BALL),
            "no",
        ),
        (
            f"{TWO} The cube is to the left of the sphere.",
            relation(BALL, "to the right of", CUBE),
            "yes",
        ),
        (
            f"{TWO} The cube is to the left of the sphere.",
            relation(BALL, "to the left of", CUBE),
            "no",
        ),
        (f"{TWO} The cube is in front of the sphere.", relation(CUBE, "behind", BALL), "no"),
        (
            "A red cube is on the left. A blue sphere is on the right.",
            relation(BALL, "to the right of", CUBE),
            "yes",
        ),
        (TWO, relation(Description(shape="cone"), "behind", CUBE), UNKNOWN),
        # Which cube is meant cannot be known: answered where it makes no difference.
        (CUBES_AND_SPHERE, relation(SMALL_CUBE, "behind", SPHERES), UNKNOWN),
        (CUBES_AND_SPHERE, relation(SMALL_CUBE, "to the left of", SPHERES), "yes"),
        (CUBES_AND_SPHERE, attribute("color", SMALL_CUBE), UNKNOWN),
        # Floor and light, also from shadows; of contradictions the first counts.
        ("The floor is gray.", FLOOR, "gray"),
        ("The floor is gray.", LIGHT, UNKNOWN),
        ("The shadows fall to the left.", LIGHT, "right"),
        ("The floor is gray. The floor is black.", FLOOR, "gray"),
        # What cannot be read tells nothing.
        ("Cube red a small.", there(CUBE), "no"),
    ],
)
def test_answers(caption: str, question: Question, answer: str) -> None:
    assert CaptionReader(caption).answer(question) == answer


@pytest.mark.parametrize("write", [short_caption, long_caption])
def test_true_captions_answer_all_but_some_relations(
    write: Callable[[Scene, np.random.Generator], str],
) -> None:
    open_, relations = 0, 0
    for scene, seed in SCENES:
        reader = CaptionReader(write(scene, np.random.default_rng(seed)))
        for question in ask(scene, seed):
            answer = reader.answer(question)
            relations += question.kind == "relation"
            if question.kind == "relation" and answer == UNKNOWN:
                open_ += 1
            else:
                assert answer == question.answer, question
    assert 0 < open_ < 0.25 * relations


def test_parts_of_true_captions_never_lead_to_a_wrong_answer() -> None:
    answered, left_open = 0, 0
    for scene, seed in SCENES:
        rng = np.random.default_rng(seed)
        count = len(scene.objects)
        counted = f"The scene has {NUMBERS[count]} object{'s' if count > 1 else ''}."
        written = split_sentences(long_caption(scene, rng))
        part = " ".join([counted, *(sentence for sentence in written if rng.random() < 0.5)])
        claims = read_caption(part)
        # Without the sentence before it, "it" may be untrue or mean nothing.
        if {*judge(claims, scene)} != {Verdict.TRUE}:
            continue
        reader = CaptionReader(part)
        for question in ask(scene, seed):
            answer = reader.answer(question)
            assert answer in (question.answer, UNKNOWN), (part, question)
            answered += answer != UNKNOWN
            left_open += answer == UNKNOWN
    assert min(answered, left_open) > 500


def test_a_caption_of_another_scene_is_no_help() -> None:
    right, asked = 0, 0
    for (scene, seed), (other, _) in zip(SCENES[1:], SCENES, strict=False):
        reader = CaptionReader(short_caption(other, np.random.default_rng(seed)))
        colors = [q for q in ask(scene, seed) if q.choices == COLORS]
        right += sum(reader.answer(question) == question.answer for question in colors)
        asked += len(colors)
    assert right < 0.2 * asked
