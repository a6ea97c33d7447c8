"""The page of `vlv eval pairs`: the best, worst and random captions beside their references."""

from collections.abc import Sequence
from functools import partial

from vlv.evaluation.real.pairs import Pairs, Scored
from vlv.evaluation.real.result_page import best_worst_random
from vlv.evaluation.real.said_page import Said, Shown, said_page, shown_picture
from vlv.evaluation.results import Result


def pairs_page(result: Result, pairs: Pairs, scored: Sequence[Scored], *, seed: int) -> str:
    """The page as HTML. Images are ordered by the first captioner: by CLIPScore where there is one,
    else by CIDEr.
    """
    first = scored[0]
    by, values = ("CIDEr", first.cider) if first.clip is None else ("CLIPScore", first.clip)
    name = first.captions.name
    shown = partial(_shown, pairs, scored)
    sections = best_worst_random(
        values, f"Highest {by} of {name}", f"Lowest {by} of {name}", shown, seed
    )
    return said_page(result, sections)


def _shown(pairs: Pairs, scored: Sequence[Scored], at: int) -> Shown:
    captions = [Said(one.captions.name, one.captions.texts[at], _scores(one, at)) for one in scored]
    references = [Said("reference", text) for text in pairs.references[at]]
    picture = shown_picture(partial(pairs.picture, at))
    return Shown(pairs.names[at], picture, [*captions, *references])


def _scores(one: Scored, at: int) -> str:
    clip = "" if one.clip is None else f", CLIPScore {one.clip[at]:.3f}"
    return f"CIDEr {one.cider[at]:.3f}{clip}"
