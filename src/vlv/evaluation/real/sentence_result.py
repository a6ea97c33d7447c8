"""What the marks of labelled sentences are worth: AUROC, calibration, and control of false alarms.

Every interval is from resampled images, whose sentences stay together. Reads records of marks
(sentence_marks.py); opens no model.

Shapes: m sentences, n images.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlv.errors import DatasetError
from vlv.evaluation.metrics.detection import (
    BINS,
    auroc_figure,
    bin_of,
    calibration_error_statistic,
    conformal_threshold,
)
from vlv.evaluation.metrics.sentence_scores import LEAST_LIKELY, LIKELIHOOD
from vlv.evaluation.metrics.statistics import Array, Bootstrap, Figure, Ratio, sums_by_scene
from vlv.evaluation.real.arena_images import draw
from vlv.evaluation.real.sentence_marks import OTHER, OWN
from vlv.evaluation.results import PART, Label, Result, Row
from vlv.text import counted

MARKS, SCORES, VERDICTS = "marks", "scores", "verdicts by image"
RELIABILITY, CALIBRATION, CONTROL = "reliability", "calibration", "control of false alarms"
OUR_SCORE = "denoising score"
ALL = "all"
RATES = (0.01, 0.05, 0.1, 0.2)
"""Of false alarms, that are asked for."""
# Score -> the fields of a sentence, where it is judged and in any case, and the sign with which a
# larger score is less support.
_SCORES = {
    OUR_SCORE: ("gain", "gain_unrefused", 1),
    LIKELIHOOD: ("mean_likelihood", "mean_likelihood", -1),
    LEAST_LIKELY: ("least_likelihood", "least_likelihood", -1),
}


@dataclass(frozen=True)
class Sentence:
    """A sentence with its mark. image: the place of its image. true: None where it has no label."""

    image: int
    captioner: str
    at: str
    mark: Mapping[str, Any]

    @property
    def true(self) -> bool | None:
        """What people say."""
        label: bool | None = self.mark["true"]
        return label

    @property
    def judged(self) -> bool:
        """Whether the verifier judged it."""
        return bool(self.mark["judged"])

    def flagged(self, rate: float) -> bool:
        """Whether it is called unsupported at a rate of false alarms of the verifier's own."""
        return self.judged and float(self.mark["alarm_rate"]) <= rate


def sentence_result(
    records: Sequence[Mapping[str, Any]],
    *,
    false_alarm_rate: float,
    seed: int = 0,
    provenance: dict[str, Any],
    more_notes: Sequence[str] = (),
) -> Result:
    """The tables.

    Raises:
        DatasetError: no sentence at its own image has a label.
    """
    names = list(dict.fromkeys(str(record["file_name"]) for record in records))
    place = {name: at for at, name in enumerate(names)}
    every = [
        Sentence(place[record["file_name"]], str(record["captioner"]), str(record["at"]), mark)
        for record in records
        for mark in record["sentences"]
    ]
    labelled = [one for one in every if one.at == OWN and one.true is not None]
    if not labelled:
        raise DatasetError(
            f"no sentence of {counted(len(names), 'image')} has a label; raise --limit, or label "
            "sentences of these images"
        )
    judged = [one for one in labelled if one.judged]
    bootstrap = Bootstrap(len(names), seed)
    rows = [
        *_mark_rows(labelled, len(names), bootstrap, false_alarm_rate),
        *_score_rows(labelled, bootstrap),
        *_verdict_rows(every, len(names), bootstrap, false_alarm_rate),
        *_reliability_rows(judged, len(names), bootstrap),
        *_control_rows(judged, names, bootstrap, seed),
    ]
    return Result(
        name="verify",
        title="Marks of sentences against labels of people",
        paper="none: beyond the paper",
        rows=rows,
        notes=[
            *_undefined(labelled, judged),
            *_how_to_read(false_alarm_rate),
            *more_notes,
        ],
        provenance={**provenance, "images": len(names), "sentences": len(labelled)},
    )


def _undefined(labelled: Sequence[Sentence], judged: Sequence[Sentence]) -> list[str]:
    """Why figures are missing, a sentence each."""
    notes = []
    for what, many in (("labelled", labelled), ("judged", judged)):
        kinds = {one.true for one in many}
        if len(kinds) == 1:
            kind = "true" if kinds == {True} else "false"
            notes.append(
                f"AUROC of {what} sentences is undefined: all {len(many):,} of them are labelled "
                f"{kind}, and it compares true with false ones."
            )
    if not judged:
        reasons = Counter(str(one.mark["reason"]) for one in labelled)
        most, count = reasons.most_common(1)[0]
        notes.append(
            f"The verifier judged none of the {len(labelled):,} labelled sentences ({count:,} "
            f"times: {most}), so that calibration and control of false alarms are undefined."
        )
    return notes


def _how_to_read(rate: float) -> list[str]:
    return [
        f"Wrong ones found and false alarms are at the rate {rate:g} of the model's own verifier; "
        "sentences that it cannot judge count as not marked.",
        "AUROC, judged: over the sentences that the verifier judges; AUROC, all: over all labelled "
        "sentences, where the denoising score ignores refusals. The scores of the language model "
        "are for comparison.",
        "Control of false alarms: split conformal. A threshold is set on the judged true sentences "
        "of half of the images, and the other half shows the rate that is reached. The rate holds "
        "on average over sentences that are exchangeable; those of one image are alike, so that it "
        "varies more than independent ones would. Own rate is what the verifier's own threshold "
        "gives on the same sentences.",
        "Intervals are from resampled images; of shares of 0 and 100%, they end at what so many "
        "images leave possible.",
    ]


def _share(
    sentences: Sequence[Sentence], holds: Sequence[bool], count: int, bootstrap: Bootstrap
) -> Figure:
    over = _sums(sentences, [float(one) for one in holds], count)
    return bootstrap.share(Ratio(over, _sums(sentences, [1.0] * len(sentences), count)))


def _mark_rows(
    labelled: Sequence[Sentence], count: int, bootstrap: Bootstrap, rate: float
) -> Iterator[Row]:
    captioners = list(dict.fromkeys(one.captioner for one in labelled))
    groups = {ALL: list(labelled)}
    if len(captioners) > 1:
        groups |= {
            name or "not named": [one for one in labelled if one.captioner == name]
            for name in captioners
        }
    for name, many in groups.items():
        false = [one for one in many if not one.true]
        true = [one for one in many if one.true]
        figures = {
            "true_share": _share(many, [bool(one.true) for one in many], count, bootstrap),
            "cannot_judge": _share(many, [not one.judged for one in many], count, bootstrap),
            "detected": _share(false, [one.flagged(rate) for one in false], count, bootstrap),
            "false_alarms": _share(true, [one.flagged(rate) for one in true], count, bootstrap),
        }
        yield Row({PART: MARKS, "captions": name}, len(many), figures)


def _score_rows(labelled: Sequence[Sentence], bootstrap: Bootstrap) -> Iterator[Row]:
    for name, (of_judged, of_any, sign) in _SCORES.items():
        known = [one for one in labelled if one.mark[of_any] is not None]
        judged = [one for one in known if one.judged]
        figures = {
            "auroc_judged": _auroc(judged, of_judged, sign, bootstrap),
            "auroc_all": _auroc(known, of_any, sign, bootstrap),
        }
        yield Row({PART: SCORES, "score": name}, len(known), figures)


def _auroc(many: Sequence[Sentence], field: str, sign: int, bootstrap: Bootstrap) -> Figure:
    scored = (
        [sign * float(one.mark[field]) for one in many],
        [not one.true for one in many],
        [one.image for one in many],
    )
    return auroc_figure(bootstrap, scored)


def _verdict_rows(
    every: Sequence[Sentence], count: int, bootstrap: Bootstrap, rate: float
) -> Iterator[Row]:
    for at in (OWN, OTHER):
        many = [one for one in every if one.at == at]
        if not many:
            continue
        unsupported = [one.flagged(rate) for one in many]
        supported = [one.judged and not flag for one, flag in zip(many, unsupported, strict=True)]
        figures = {
            "supported": _share(many, supported, count, bootstrap),
            "unsupported": _share(many, unsupported, count, bootstrap),
            "cannot_judge": _share(many, [not one.judged for one in many], count, bootstrap),
        }
        yield Row({PART: VERDICTS, "captions at": at}, len(many), figures)


def _reliability_rows(
    judged: Sequence[Sentence], count: int, bootstrap: Bootstrap
) -> Iterator[Row]:
    if not judged:
        return
    predicted = [float(one.mark["probability"]) for one in judged]
    bins = bin_of(predicted)
    for at in range(len(BINS) - 1):
        inside = np.flatnonzero(bins == at).tolist()
        if inside:
            many = [judged[one] for one in inside]
            sizes = _sums(many, [1.0] * len(many), count)
            figures = {
                "probability": bootstrap.figure(
                    Ratio(_sums(many, [predicted[one] for one in inside], count), sizes)
                ),
                "true_share": _share(many, [bool(one.true) for one in many], count, bootstrap),
            }
            label: dict[str, Label] = {
                PART: RELIABILITY,
                "predicted": f"{BINS[at]:g} to {BINS[at + 1]:g}",
            }
            yield Row(label, len(many), figures)
    error = bootstrap.of(
        calibration_error_statistic(
            predicted, [bool(one.true) for one in judged], [one.image for one in judged], count
        )
    )
    yield Row({PART: CALIBRATION, "over": "judged sentences"}, len(judged), {"ece": error})


def _sums(many: Sequence[Sentence], values: Sequence[float], count: int) -> Array:
    """By image: (n,)."""
    return sums_by_scene(values, [one.image for one in many], count)


def _control_rows(
    judged: Sequence[Sentence],
    names: Sequence[str],
    bootstrap: Bootstrap,
    seed: int,
) -> Iterator[Row]:
    order = sorted(range(len(names)), key=lambda at: draw(seed, "split", names[at]))
    held_out = set(order[len(order) // 2 :])
    calibration = [
        float(one.mark["gain"]) for one in judged if one.true and one.image not in held_out
    ]
    tested = [one for one in judged if one.image in held_out]
    true = [one for one in tested if one.true]
    false = [one for one in tested if not one.true]
    if not true or not calibration:
        return
    for rate in RATES:
        threshold = conformal_threshold(calibration, rate)
        alarms, found = (
            [float(one.mark["gain"]) > threshold for one in many] for many in (true, false)
        )
        own = [one.flagged(rate) for one in true]
        figures = {
            "false_alarms": _share(true, alarms, len(names), bootstrap),
            "detected": _share(false, found, len(names), bootstrap),
            "own_rate": _share(true, own, len(names), bootstrap),
            "threshold": Figure(threshold),
            "calibrated_on": Figure(float(len(calibration))),
        }
        yield Row({PART: CONTROL, "rate asked": rate}, len(true), figures)
