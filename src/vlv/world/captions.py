"""Captions of a scene: short ones that fit the text tower, and long ones for language models.

The order of objects, their division into sentences, and the further facts are drawn at random here.
The sentences themselves come from sentences.py and relations.py.
"""

from collections.abc import Sequence

import numpy as np

from vlv.world import relations
from vlv.world import sentences as say
from vlv.world.lexicon import PLACE_PHRASES, article, column_of, row_of
from vlv.world.scene import Scene, SceneObject
from vlv.world.sentences import Dice, Item, T

SHORT_TOKENS = 75  # of the text tower's 77, with its two special tokens
SHORT_WORDS = 55  # for up to three objects
LONG_WORDS = (60, 120)

# Share of objects named by the shortest noun phrase, by number of objects.
_PLAIN_NOUN = {1: 0.6, 2: 0.7, 3: 0.85, 4: 0.93}


def short_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A few sentences with every fact of the scene and every object's place.

    At most 75 words and punctuation marks with the text tower's two special tokens, for one to
    four objects; at most 55 words for one to three.
    """
    dice = Dice(rng)
    while True:
        text = _short(scene, dice)
        words = text.count(" ") + 1
        if _fits_tower(text) and (words <= SHORT_WORDS or len(scene.objects) > 3):
            return text


def _fits_tower(text: str) -> bool:
    marks = text.count(",") + text.count(".")
    words = text.count(" ") + 1
    # Tokenizers are trained on scenes of up to three objects, so they spell this word.
    spelled = 3 * text.lower().count("four")
    return words + marks + spelled + 2 <= SHORT_TOKENS


def long_caption(scene: Scene, rng: np.random.Generator) -> str:
    """60 to 120 words: the facts of a short caption, a count, relations and more."""
    dice = Dice(rng)
    while True:
        text = _long(scene, dice)
        if LONG_WORDS[0] <= text.count(" ") + 1 <= LONG_WORDS[1]:
            return text


def counted_caption(scene: Scene, rng: np.random.Generator) -> str:
    """How many objects there are, floor and light, and none, some or all of the objects, so that
    only the number tells whether the list is complete. For two to four objects.
    """
    dice = Dice(rng)
    while True:
        text = _counted(scene, dice)
        if _fits_tower(text):
            return text


def _paragraph(sentences: Sequence[str]) -> str:
    return " ".join(f"{s[0].upper()}{s[1:]}." for s in sentences)


def _short(scene: Scene, dice: Dice) -> str:
    objects = dice.shuffled(scene.objects)
    count = len(objects)
    plain = _PLAIN_NOUN[count]
    groups = _split([say.item(obj, dice, plain) for obj in objects], dice)
    style = dice.draw()
    if style < 0.25:
        return _paragraph(_opened(scene, groups, dice))
    body = [say.body(group, dice) for group in groups]
    if style < 0.4 and len(groups) == 1:
        return _paragraph([body[0] + say.closing(scene, count, dice)])
    if count == 2 and dice.draw() < 0.3:
        body += relations.pair_sentences(objects, 1, dice)
    if style < 0.5 and count > 1:
        return _paragraph([say.count_on_floor(scene, dice), *body])
    setting = say.setting(scene, dice)
    return _paragraph([*setting, *body] if style < 0.7 else [*body, *setting])


def _counted(scene: Scene, dice: Dice) -> str:
    objects = dice.shuffled(scene.objects)
    named = objects[: int(dice.draw() * (len(objects) + 1))]
    items = [say.item(obj, dice, _PLAIN_NOUN[len(objects)]) for obj in named]
    groups = _split(items, dice) if items else []
    return _paragraph(
        [say.count_on_floor(scene, dice), *(say.body(group, dice) for group in groups)]
    )


_SPLITS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((1,),),
    2: ((2,), (2,), (1, 1)),
    3: ((3,), (3,), (1, 2), (2, 1), (1, 1, 1)),
    4: ((4,), (2, 2), (2, 2), (1, 3), (3, 1), (1, 1, 2), (2, 1, 1)),
}


def _split(items: list[T], dice: Dice) -> list[list[T]]:
    groups, start = [], 0
    for size in dice.pick(_SPLITS[len(items)]):
        groups.append(items[start : start + size])
        start += size
    return groups


def _opened(scene: Scene, groups: list[list[Item]], dice: Dice) -> list[str]:
    """Body sentences. The first one starts with the floor; the light may come last."""
    opening, names_light = say.opening(scene, dice)
    sentences = [f"{opening} {say.body_after_opening(groups[0], dice)}"]
    sentences += [say.body(group, dice) for group in groups[1:]]
    return sentences if names_light else [*sentences, say.light(scene, dice)]


def _long(scene: Scene, dice: Dice) -> str:
    objects = dice.shuffled(scene.objects)
    count = len(objects)
    goal = LONG_WORDS[0] + 4 + int(dice.draw() * 36)
    number = [relations.count_sentence(count, dice)]
    setting = say.setting(scene, dice)
    body = [_long_body(group, dice) for group in _split(objects, dice)]
    if count == 1:
        body += relations.about_one(objects[0], objects, dice)[: 3 + int(dice.draw() * 3)]
        extras = [relations.no_other_object(), relations.shadows(scene, dice)]
    else:
        body += relations.pair_sentences(objects, 1 + int(dice.draw() * 3), dice)
        extras = [relations.shares(scene, fact, dice) for fact in ("material", "size")]
        extras += [
            relations.shadows(scene, dice),
            relations.about_one(dice.pick(objects), objects, dice)[0],
        ]
    order = dice.draw()
    if order < 0.3:
        sentences = [*number, *setting, *body]
    elif order < 0.8:
        sentences = [*number, *body, *setting]
    else:
        sentences = [*body, *setting, *number]
    for extra in dice.shuffled(extras):
        if _words(sentences) < goal:
            sentences.append(extra)
    return _paragraph(sentences)


def _long_body(objects: list[SceneObject], dice: Dice) -> str:
    """A body sentence. Facts of a single object may follow in a second sentence."""
    if len(objects) > 1 or dice.draw() < 0.5:
        return say.body([say.item(obj, dice, 0.6) for obj in objects], dice)
    (obj,) = objects
    place = dice.pick(PLACE_PHRASES[column_of(obj.x), row_of(obj.z)])
    if dice.draw() < 0.6:
        noun = f"a {obj.size} {obj.color} {obj.shape}"
        more = dice.pick(
            (
                f"it is {obj.material}",
                f"its surface is {obj.material}",
                f"it has a {obj.material} surface",
            )
        )
    else:
        noun = f"{article(obj.color)} {obj.color} {obj.shape}"
        more = f"it is {obj.size} and {obj.material}"
    return f"{say.body([(noun, place)], dice)}. {more[0].upper()}{more[1:]}"


def _words(sentences: Sequence[str]) -> int:
    return sum(sentence.count(" ") + 1 for sentence in sentences)
