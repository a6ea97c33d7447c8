"""The page of `vlv eval pairs`: the best, worst and random captions beside their references."""

from collections.abc import Sequence
from functools import partial

from vlv.evaluation.real.pairs import Pairs, Scored
from vlv.evaluation.real.picture_page import (
    Said,
    Section,
    Shown,
    picture_page,
    ranked,
    small_picture,
)
from vlv.evaluation.results import Result


def pairs_page(result: Result, pairs: Pairs, scored: Sequence[Scored], *, seed: int) -> str:
    """The page as HTML. Images are ordered by the first captioner: by CLIPScore where there is one,
    else by CIDEr.
    """
    return picture_page(result, _sections(pairs, scored, seed))


def _sections(pairs: Pairs, scored: Sequence[Scored], seed: int) -> list[Section]:
    first = scored[0]
    by, values = ("CIDEr", first.cider) if first.clip is None else ("CLIPScore", first.clip)
    chosen = ranked(
        range(len(pairs.names)), values.tolist(), f"{by} of {first.captions.name}", seed
    )
    return [
        Section(title, [_shown(pairs, scored, at) for at in places])
        for title, places in chosen.items()
    ]


def _shown(pairs: Pairs, scored: Sequence[Scored], at: int) -> Shown:
    captions = [Said(one.captions.name, one.captions.texts[at], _scores(one, at)) for one in scored]
    references = [Said("reference", text) for text in pairs.references[at]]
    picture = small_picture(partial(pairs.picture, at))
    return Shown(pairs.names[at], picture, [*captions, *references])


def _scores(one: Scored, at: int) -> str:
    clip = "" if one.clip is None else f", CLIPScore {one.clip[at]:.3f}"
    return f"CIDEr {one.cider[at]:.3f}{clip}"
