"""The forms of sentences: which sequences of phrases are a sentence, and of which form.

Patterns are regular expressions over the kinds of phrases.py, written as words: `known` is "the red
cube", `new` is "a red cube", `comma` is a comma.
"""

import re
from collections.abc import Sequence


def _over_kinds(pattern: str) -> re.Pattern[str]:
    """A pattern whose words are kinds; white space in it does not count."""
    in_words = re.sub(r"[a-z_]+", lambda kind: rf"(?:\b{kind[0]}\s)", pattern)
    return re.compile(re.sub(r"\s+", "", in_words))


def _text(kinds: Sequence[str]) -> str:
    return "".join(f"{kind} " for kind in kinds)


_VERB = "(stands|seen|is)"
_NAME = "(known|it)"
_FORMS = {
    form: _over_kinds(pattern)
    for form, pattern in {
        "setting": """
            floor_is | light_is | floor_and_light | shadow
            | floor_is comma? and (light_is | is? lit_from)
            | floor_is comma? with_light
            | light_is comma? and floor_is
            | light_is comma so shadow""",
        "count": """
            ((shows|there_are) objects | (shows|there_is) one_object)
                (in_picture | on_floor (lit_from|with_light)?)?
            | (objects (stand|seen|are) | one_object (stands|seen|is))
                on_floor (lit_from|with_light)?""",
        "no other": "there_is no_other in_picture?",
        "share": """
            (one_of is | several_of are) quality
                (and (one is | several are) quality)?""",
        "quality": f"""
            {_NAME} is quality
            | (its_surface|its_size) is quality
            | (surface_of|size_of) {_NAME} is quality
            | {_NAME} has_surface""",
        "relation": f"{_NAME} {_VERB} relation {_NAME} (and relation {_NAME})?",
        "turned relation": f"relation {_NAME} (stands|is) known",
    }.items()
}

# Any other sentence is a body sentence, which says where objects stand: groups of an object and its
# place, joined by conjunctions.
_JOINT = _over_kinds("comma (and|while|with) | (comma|and|while|with)")
_LAST_JOINT = _over_kinds("comma? (and|while|with) $")
_LATER_GROUP = f"""
    new {_VERB} place | there_is new place | place (stands|seen|is|there_is) new
    | the_object place is new"""
_FIRST_GROUP = f"(new|known|it) {_VERB} place | (shows|there_is) new place? | {_LATER_GROUP}"
_FIRST, _LATER = _over_kinds(_FIRST_GROUP), _over_kinds(_LATER_GROUP)
# A later group without a verb takes that of the first group, and has its order.
_WITHOUT_VERB = {
    "place": _over_kinds("place new"),
    "shows": _over_kinds("new place?"),
    "there_is": _over_kinds("new place?"),
}
_WITHOUT_VERB_ELSE = _over_kinds("new place")
_BEFORE_BODY = _over_kinds("on_floor (lit_from|with_light)? comma")
_AFTER_BODY = _over_kinds("(comma? all)? on_floor (lit_from|with_light)? $")


def form_of(kinds: Sequence[str]) -> str | None:
    """The form of a sentence with phrases of these kinds, `body` among them; None if it is none."""
    text = _text(kinds)
    for form, pattern in _FORMS.items():
        if pattern.fullmatch(text):
            return form
    return "body" if body_groups(kinds) else None


def body_groups(kinds: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where the groups of a body sentence start and end, as indices of phrases; None if the
    sentence is no body sentence.
    """
    text = _text(kinds)
    before, after = _BEFORE_BODY.match(text), _AFTER_BODY.search(text)
    start, end = before.end() if before else 0, after.start() if after else len(text)
    spans = []
    for joint in (*_JOINT.finditer(text, start, end), None):
        spans.append((start, joint.start() if joint else end))
        start = joint.end() if joint else end
    first, *later = (text[a:b] for a, b in spans)
    if not _FIRST.fullmatch(first):
        return None
    if later and not _LAST_JOINT.search(text, 0, spans[-1][0]):
        return None
    without_verb = _WITHOUT_VERB.get(kinds[text.count(" ", 0, spans[0][0])], _WITHOUT_VERB_ELSE)
    if all(_LATER.fullmatch(group) or without_verb.fullmatch(group) for group in later):
        return [(text.count(" ", 0, a), text.count(" ", 0, b)) for a, b in spans]
    return None
