"""Further sentences about described objects: relations, counts, shadows, qualities.

As in sentences.py, sentences have no capital and no full stop.
"""

from collections.abc import Sequence

from vlv.world.lexicon import NUMBERS, column_of, row_of
from vlv.world.scene import Scene, SceneObject
from vlv.world.sentences import Dice

# Relations are written only if they are clearly visible.
_CLEAR_X, _CLEAR_Z = 0.25, 0.2


def _names(obj: SceneObject, objects: Sequence[SceneObject]) -> list[str]:
    """Names of an object that was described before; each fits this object only."""
    names = [
        f"the {obj.color} {obj.shape}",
        f"the {obj.color} {obj.shape}",
        f"the {obj.size} {obj.color} {obj.shape}",
        f"the {obj.material} {obj.color} {obj.shape}",
    ]
    if sum(other.shape == obj.shape for other in objects) == 1:
        names.append(f"the {obj.shape}")
    return names


def _true_relations(a: SceneObject, b: SceneObject) -> list[str]:
    """The clearly visible relations of a to b."""
    true = []
    if abs(a.x - b.x) >= _CLEAR_X:
        true.append("to the left of" if a.x < b.x else "to the right of")
    if abs(a.z - b.z) >= _CLEAR_Z:
        true.append("in front of" if a.z < b.z else "behind")
    return true


def pair_sentences(objects: Sequence[SceneObject], count: int, dice: Dice) -> list[str]:
    """Up to `count` sentences about relations of pairs of objects."""
    pairs = [(a, b) for i, a in enumerate(objects) for b in objects[i + 1 :]]
    sentences: list[str] = []
    for first, second in dice.shuffled(pairs):
        a, b = (first, second) if dice.draw() < 0.5 else (second, first)
        true = _true_relations(a, b)
        if len(sentences) == count or not true:
            continue
        name, other = dice.pick(_names(a, objects)), dice.pick(_names(b, objects))
        verb = dice.pick(("is", "is", "stands", "sits", "rests"))
        relation = dice.pick(true)
        style = dice.draw()
        if len(true) == 2 and style < 0.3:
            also = next(other_true for other_true in true if other_true != relation)
            sentences.append(f"{name} {verb} {relation} {other} and {also} it")
        elif style < 0.5:
            sentences.append(f"{relation} {other} {verb} {name}")
        else:
            sentences.append(f"{name} {verb} {relation} {other}")
    return sentences


def count_sentence(count: int, dice: Dice) -> str:
    """How many objects there are."""
    noun, verb = ("object", "is") if count == 1 else ("objects", "are")
    return dice.pick(
        (
            f"there {verb} {NUMBERS[count]} {noun} in the picture",
            f"the picture shows {NUMBERS[count]} {noun}",
            f"the scene has {NUMBERS[count]} {noun}",
            f"you can see {NUMBERS[count]} {noun}",
        )
    )


def no_other_object() -> str:
    """A sentence for a scene with one object."""
    return "there is no other object in the picture"


def shares(scene: Scene, fact: str, dice: Dice) -> str:
    """How many of the objects are large or small, or shiny or matte."""
    words = [getattr(obj, fact) for obj in scene.objects]
    total, word = len(words), dice.pick(words)
    number = words.count(word)
    if number == total:
        of = "both" if total == 2 else "all"
        return dice.pick((f"{of} of them are {word}", f"{of} objects are {word}"))
    rest = next(other for other in words if other != word)
    whole = dice.pick(("of them", "of the objects"))
    is_, are = [("is" if n == 1 else "are") for n in (number, total - number)]
    number_word, rest_word = NUMBERS[number], NUMBERS[total - number]
    if dice.draw() < 0.3:
        return f"{number_word} {whole} {is_} {word}"
    return f"{number_word} {whole} {is_} {word} and {rest_word} {are} {rest}"


def shadows(scene: Scene, dice: Dice) -> str:
    """Shadows fall away from the light."""
    away = "right" if scene.light == "left" else "left"
    what = "the shadow falls" if len(scene.objects) == 1 else "the shadows fall"
    if dice.draw() < 0.5:
        return f"{what} to the {away}"
    return f"the light comes from the {scene.light}, so {what} to the {away}"


def about_one(obj: SceneObject, objects: Sequence[SceneObject], dice: Dice) -> list[str]:
    """Further sentences about one object. From the second on it may be called "it"."""
    column, row = column_of(obj.x), row_of(obj.z)
    kinds = ["surface", "size", "both", "row"]
    if column != "middle":
        kinds.append("side")
    sentences: list[str] = []
    for kind in dice.shuffled(kinds):
        name = dice.pick(_names(obj, objects))
        plain_name = f"the {obj.color} {obj.shape}"
        surface, size = f"the surface of {plain_name}", f"the size of {plain_name}"
        if sentences and dice.draw() < 0.6:
            name = plain_name = "it"
            surface, size = "its surface", "its size"
        if kind == "surface":
            sentences.append(f"{surface} is {obj.material}")
        elif kind == "size":
            sentences.append(f"{size} is {obj.size}")
        elif kind == "both":
            sentences.append(f"{plain_name} is {obj.size} and {obj.material}")
        elif kind == "row":
            sentences.append(f"{name} is in the {row} row")
        else:
            sentences.append(f"{name} is on the {column} side of the picture")
    return sentences
