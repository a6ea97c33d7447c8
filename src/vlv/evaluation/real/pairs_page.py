"""The page of `vlv eval pairs`: its tables, and the best, worst and random captions with their
images. One file, no scripts, no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vlv.errors import DatasetError, ImageError
from vlv.evaluation.real.pairs import Pairs, Scored
from vlv.evaluation.real.result_page import Section, best_worst_random, sections_page, thumbnail
from vlv.evaluation.results import Result

TEMPLATE = "pairs.html.j2"


@dataclass(frozen=True)
class Said:
    """A caption on the page, with its scores as text."""

    name: str
    text: str
    scores: str


@dataclass(frozen=True)
class Shown:
    """One image on the page; picture: None where it does not decode."""

    name: str
    picture: str | None
    references: list[str]
    captions: list[Said]


def pairs_page(result: Result, pairs: Pairs, scored: Sequence[Scored], *, seed: int) -> str:
    """The page as HTML. Images are ordered by the first captioner: by CLIPScore where there is one,
    else by CIDEr.
    """
    return sections_page(TEMPLATE, result, _sections(pairs, scored, seed))


def _sections(pairs: Pairs, scored: Sequence[Scored], seed: int) -> list[Section[Shown]]:
    first = scored[0]
    by, values = ("CIDEr", first.cider) if first.clip is None else ("CLIPScore", first.clip)
    name = first.captions.name
    return best_worst_random(
        values,
        f"Highest {by} of {name}",
        f"Lowest {by} of {name}",
        lambda at: _shown(pairs, scored, at),
        seed,
    )


def _shown(pairs: Pairs, scored: Sequence[Scored], at: int) -> Shown:
    captions = [Said(one.captions.name, one.captions.texts[at], _scores(one, at)) for one in scored]
    return Shown(pairs.names[at], _picture(pairs, at), pairs.references[at], captions)


def _scores(one: Scored, at: int) -> str:
    clip = "" if one.clip is None else f", CLIPScore {one.clip[at]:.3f}"
    return f"CIDEr {one.cider[at]:.3f}{clip}"


def _picture(pairs: Pairs, at: int) -> str | None:
    try:
        picture = pairs.picture(at)
    except (ImageError, DatasetError):
        return None  # named before, as an image that is refused
    return thumbnail(picture)
