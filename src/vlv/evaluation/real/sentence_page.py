"""The page of `vlv eval verify SET`: where marks and people differ most, and some at random."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlv.evaluation.real.picture_page import (
    SHOWN,
    Said,
    Section,
    Shown,
    picture_page,
    small_pictures,
)
from vlv.evaluation.real.sentence_marks import OWN
from vlv.evaluation.results import Result


def sentence_page(
    result: Result,
    records: Sequence[Mapping[str, Any]],
    source: Path,
    *,
    false_alarm_rate: float,
    seed: int,
) -> str:
    """The page as HTML. source: the set, whose images are read again."""
    own = [record for record in records if record["at"] == OWN]
    pairs = [(record, mark) for record in own for mark in record["sentences"]]
    judged = [(record, mark) for record, mark in pairs if mark["judged"]]
    missed = sorted(
        (one for one in judged if one[1]["true"] is False), key=lambda one: one[1]["gain"]
    )
    alarms = sorted(
        (one for one in judged if one[1]["true"] is True), key=lambda one: -one[1]["gain"]
    )
    drawn = sorted(np.random.default_rng(seed).permutation(len(own))[:SHOWN].tolist())
    chosen = {
        "False sentences with the lowest scores": [record for record, _ in missed],
        "True sentences with the highest scores": [record for record, _ in alarms],
        "Drawn at random": [own[at] for at in drawn],
    }
    shown = {title: _first(many) for title, many in chosen.items() if many}
    names = {str(record["file_name"]) for many in shown.values() for record in many}
    pictures = small_pictures(source, names)
    sections = [
        Section(title, [_shown(one, pictures, false_alarm_rate) for one in many])
        for title, many in shown.items()
    ]
    return picture_page(result, sections)


def _first(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first different captions."""
    return list({str(record["key"]): record for record in records}.values())[:SHOWN]


def _shown(record: Mapping[str, Any], pictures: Mapping[str, str | None], rate: float) -> Shown:
    name = str(record["file_name"])
    said = [Said(_label(mark), mark["text"], _mark(mark, rate)) for mark in record["sentences"]]
    return Shown(name, pictures.get(name), said)


def _label(mark: Mapping[str, Any]) -> str:
    return {True: "true", False: "false", None: "no label"}[mark["true"]]


def _mark(mark: Mapping[str, Any], rate: float) -> str:
    if not mark["judged"]:
        return f"cannot judge: {mark['reason']}"
    verdict = "unsupported" if mark["alarm_rate"] <= rate else "supported"
    return f"{verdict}, score {mark['gain']:.3f}, {mark['probability']:.0%} likely to be true"
