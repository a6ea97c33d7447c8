"""The page of `vlv eval verify SET`: where marks and people differ most, and some at random."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlv.evaluation.real.pairs_page import Said, Shown
from vlv.evaluation.real.result_page import SHOWN, Section
from vlv.evaluation.real.said_page import said_page, shown, with_pictures
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
    judged = [(one, mark) for one in own for mark in one["sentences"] if mark["judged"]]
    missed = [(one, mark["gain"]) for one, mark in judged if mark["true"] is False]
    alarms = [(one, -mark["gain"]) for one, mark in judged if mark["true"] is True]
    drawn = sorted(np.random.default_rng(seed).permutation(len(own))[:SHOWN].tolist())
    chosen = {
        "False sentences with the lowest scores": _first(missed),
        "True sentences with the highest scores": _first(alarms),
        "Drawn at random": [own[at] for at in drawn],
    }
    sections = [
        Section(title, [_shown(one, false_alarm_rate) for one in many])
        for title, many in chosen.items()
    ]
    return said_page(result, with_pictures(source, sections))


def _first(records: Sequence[tuple[Mapping[str, Any], float]]) -> list[Mapping[str, Any]]:
    """The different captions with the lowest values."""
    ordered = sorted(records, key=lambda one: one[1])
    return list({str(record["key"]): record for record, _ in ordered}.values())[:SHOWN]


def _shown(record: Mapping[str, Any], rate: float) -> Shown:
    said = [Said(_label(mark), mark["text"], _mark(mark, rate)) for mark in record["sentences"]]
    return shown(str(record["file_name"]), said)


def _label(mark: Mapping[str, Any]) -> str:
    return {True: "true", False: "false", None: "no label"}[mark["true"]]


def _mark(mark: Mapping[str, Any], rate: float) -> str:
    if not mark["judged"]:
        return f"cannot judge: {mark['reason']}"
    verdict = "unsupported" if mark["alarm_rate"] <= rate else "supported"
    return f"{verdict}, score {mark['gain']:.3f}, {mark['probability']:.0%} likely to be true"
