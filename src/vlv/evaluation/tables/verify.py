"""`vlv eval verify`: how well the decoder finds the wrong sentences of captions.

One error at a time is planted in a true caption, or the model makes the errors itself. The truth of
every sentence is known. The score in use is compared with scores from the literature. Sentences and
pictures that are out of distribution are checked too: none of them should be judged
(`verify_ood`).
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from vlv.evaluation.bench import Bench, TableConfig
from vlv.evaluation.metrics.detection import Scored, auroc_figure, auroc_statistic
from vlv.evaluation.metrics.sentence_scores import OURS, SCORES, sentence_scores
from vlv.evaluation.metrics.statistics import Bootstrap, Figure, Ratio, sums_by_scene
from vlv.evaluation.results import CHECKS, Claim, Label, Progress, Result, Row, folder_hash, silent
from vlv.evaluation.tables.verify_captions import caption_rows
from vlv.evaluation.tables.verify_ood import ood_rows, supported_claims
from vlv.inference.verification import require_parts
from vlv.training.verifier import planted_captions, sampled_captions, sentence_truths
from vlv.verification.evidence import SentenceEvidence
from vlv.verification.scorer import DenoisingScorer
from vlv.verification.verdicts import SentenceSupport
from vlv.verification.verifier import Verifier, verifier_of
from vlv.verification.verify import reasons_not_to_judge, verify_caption
from vlv.world.counterfactual import ERRORS

OWN = "own captions"
# The part of the table with a row for each kind of error.
ERROR_ROWS = "errors"
# Edges of the reliability curve.
_BINS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)


class VerifyConfig(TableConfig):
    """planted: errors planted in each scene, of the kinds `errors` in turn. best_of: samples to
    select a caption from, of the first `chosen` scenes; 1 omits that part. false_alarm_rate: of
    the marks. others: how many out-of-distribution sentences and pictures of each kind; None is
    all.
    """

    count: int = Field(150, ge=2)
    planted: int = Field(1, ge=0)
    errors: tuple[str, ...] = Field(ERRORS, min_length=1)
    best_of: int = Field(8, ge=1)
    chosen: int = Field(50, ge=2)
    false_alarm_rate: float = Field(0.05, ge=0, le=1)
    others: int | None = Field(None, ge=0)

    @field_validator("errors")
    @classmethod
    def _known(cls, errors: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(errors) - set(ERRORS):
            raise ValueError(f"no such error: {sorted(unknown)}; there are {', '.join(ERRORS)}")
        return errors


@dataclass
class Sentences:
    """What is known of the sentences of one kind of caption, each with its scene."""

    scene: list[int] = field(default_factory=list)
    true: list[bool] = field(default_factory=list)
    marks: list[SentenceSupport] = field(default_factory=list)
    evidence: list[SentenceEvidence] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def evaluate(config: VerifyConfig, progress: Progress = silent) -> Result:
    """AUROC by kind of error and by score, what marks find, and their false alarms.

    Raises:
        CheckpointError, ConfigError: the model cannot be opened, or has no verifier.
    """
    bench = Bench(config, progress)
    require_parts(bench.model, marks=True)
    verifier = verifier_of(bench.model)
    assert verifier is not None  # required
    start = time.perf_counter()
    found = _gather(bench, verifier, config)
    seconds = (time.perf_counter() - start) / config.count / (1 + config.planted)
    own = found[OWN]
    rows = [
        *(_kind_row(kind, one, config) for kind, one in found.items()),
        *(_judged_row(kind, one, config) for kind, one in found.items()),
        *(_score_row(name, own, config) for name in SCORES),
        *(
            _level_row(at, level, found, config)
            for at, level in enumerate(verifier.settings.levels)
        ),
        *_reliability_rows(own, config),
    ]
    claims = [_better_than_likelihood(own, config)]
    if config.others != 0:
        others = ood_rows(bench, config.others, config.seed)
        rows += others
        claims += supported_claims(others)
    if config.best_of > 1:
        fewer = config.model_copy(update={"count": min(config.count, config.chosen)})
        rows += caption_rows(Bench(fewer, progress), config.best_of, config.false_alarm_rate)
    return Result(
        name="verify",
        title="Wrong sentences found by the decoder",
        paper="none: beyond the paper",
        rows=rows,
        claims=claims,
        notes=[
            "AUROC: the chance that a false sentence has a higher score than a true one of the "
            "same captions, over all sentences, each in its whole caption: scores ignore refusals. "
            "An own caption is a sample at temperature 1; a sentence is false if any claim in it "
            "is.",
            f"Found and false alarms: at the false-alarm rate {config.false_alarm_rate:g} of the "
            f"model's verifier, which was fitted on {verifier.settings.sentences} sentences.",
            "Cannot judge: the share of sentences that get no mark, since the picture or the "
            "sentence is unlike those of training. Shares of wrong ones found and of false "
            "alarms count them as not marked, and the other sentences of the caption are judged "
            "without them, as `vlv verify` does.",
            f"{seconds:.1f} seconds a caption, with all scores.",
        ],
        provenance={
            **bench.provenance("verify"),
            "checks_sha256": folder_hash(bench.model_folder, CHECKS),
        },
    )


def _gather(bench: Bench, verifier: Verifier, config: VerifyConfig) -> dict[str, Sentences]:
    """The sentences by kind of caption: the model's own, and each planted error."""
    found: dict[str, Sentences] = {OWN: Sentences()}
    for at in bench.progress(
        range(config.count), total=config.count, unit="scene", description="verify"
    ):
        z = bench.z[at : at + 1]
        image = Image.fromarray(bench.data.renders[at])
        _, (in_distribution,) = bench.model.encode_and_detect(image)
        scorer = DenoisingScorer(bench.model, image, verifier.settings.verify, z=z)
        captions = {OWN: sampled_captions(bench.model, z, config.seed + at)[0]}
        captions |= planted_captions(
            bench.data.scenes[at], at, config.planted, config.errors, config.seed
        )
        for kind, caption in captions.items():
            evidence, scores = sentence_scores(
                bench.model,
                image,
                caption,
                verifier.references.to(z),
                verifier.settings.verify,
                z,
            )
            into = found.setdefault(kind, Sentences())
            into.scene += [at] * len(evidence)
            into.true += sentence_truths(caption, bench.data.scenes[at])
            into.evidence += evidence
            reasons = reasons_not_to_judge(
                bench.model, verifier, caption, z, in_distribution, scorer
            )
            if any(reasons):
                # What is left is judged as if the caption held nothing else, so that its evidence
                # is not that of the whole caption.
                into.marks += verify_caption(
                    bench.model,
                    image,
                    caption,
                    z=z,
                    in_distribution=in_distribution,
                    false_alarm_rate=config.false_alarm_rate,
                )
            else:
                into.marks += verifier.marks(evidence, config.false_alarm_rate)
            for name, values in scores.items():
                into.scores[name] += values
    return {kind: found[kind] for kind in (OWN, *ERRORS) if kind in found}


def _kind_row(kind: str, found: Sentences, config: VerifyConfig) -> Row:
    flagged = [mark.verdict == "unsupported" for mark in found.marks]
    return Row(
        {"part": ERROR_ROWS, "what": kind},
        len(found.true),
        {
            "auroc": _auroc(found, found.scores[OURS], config),
            "detected": _share(found, flagged, config, of_true=False),
            "false_alarms": _share(found, flagged, config, of_true=True),
            "true_share": _share(found, found.true, config),
        },
    )


def _judged_row(kind: str, found: Sentences, config: VerifyConfig) -> Row:
    unjudged = [mark.verdict == "cannot_judge" for mark in found.marks]
    figures = {"cannot_judge": _share(found, unjudged, config)}
    return Row({"part": "judged", "what": kind}, len(found.true), figures)


def _score_row(name: str, found: Sentences, config: VerifyConfig) -> Row:
    figures = {"auroc": _auroc(found, found.scores[name], config)}
    return Row({"part": "scores, own captions", "what": name}, len(found.true), figures)


def _level_row(at: int, level: float, found: Mapping[str, Sentences], config: VerifyConfig) -> Row:
    """AUROC by the evidence of one noise level only."""

    def score(one: SentenceEvidence) -> float:
        words = [change.gains[at] for change in one.changes if change.word]
        return max(words, default=0.0)

    figures = {
        f"auroc_{kind.replace(' ', '_')}": _auroc(
            many, [score(one) for one in many.evidence], config
        )
        for kind, many in found.items()
    }
    return Row({"part": "levels of noise", "what": f"{level:g}"}, len(found[OWN].true), figures)


def _reliability_rows(found: Sentences, config: VerifyConfig) -> list[Row]:
    """Sentences by the predicted probability, and how many of them are true."""
    judged = [at for at, mark in enumerate(found.marks) if mark.verdict != "cannot_judge"]
    predicted = np.array([found.marks[at].probability for at in judged], np.float64)
    true = np.array([found.true[at] for at in judged], np.float64)
    scene = np.array([found.scene[at] for at in judged], np.int64)
    bootstrap = Bootstrap(config.count, config.seed)
    rows = []
    for low, high in pairwise(_BINS):
        inside = (predicted >= low) & ((predicted < high) | (high == 1.0))
        if inside.any():
            sizes, predictions, truths = (
                sums_by_scene(values[inside], scene[inside], config.count)
                for values in (np.ones_like(true), predicted, true)
            )
            figures = {
                "probability": bootstrap.figure(Ratio(predictions, sizes)),
                "true_share": bootstrap.share(Ratio(truths, sizes)),
            }
            label: dict[str, Label] = {
                "part": "reliability, own captions",
                "what": f"{low:g} to {high:g}",
            }
            rows.append(Row(label, int(inside.sum()), figures))
    return rows


def _share(
    found: Sentences, which: Sequence[bool], config: VerifyConfig, of_true: bool | None = None
) -> Figure:
    """The share of sentences, or of the true or the false ones among them, scene by scene."""
    over, under = np.zeros(config.count), np.zeros(config.count)
    for scene, holds, true in zip(found.scene, which, found.true, strict=True):
        if of_true is None or of_true == true:
            over[scene] += holds
            under[scene] += 1
    return Bootstrap(config.count, config.seed).share(Ratio(over, under))


def _auroc(found: Sentences, scores: Sequence[float], config: VerifyConfig) -> Figure:
    return auroc_figure(Bootstrap(config.count, config.seed), _scored(found, scores))


def _scored(found: Sentences, scores: Sequence[float]) -> Scored:
    return scores, [not true for true in found.true], found.scene


def _better_than_likelihood(own: Sentences, config: VerifyConfig) -> Claim:
    """Compared with the better of the two scores of the language model."""
    names = [name for name in SCORES if name.startswith("language model")]
    best = max(names, key=lambda name: _auroc(own, own.scores[name], config).value)
    ours, theirs = (auroc_statistic(_scored(own, own.scores[name])) for name in (OURS, best))
    return Claim(
        "The decoder finds wrong sentences better than the language model's own likelihood does.",
        "not in the paper",
        f"AUROC on own captions, minus that of “{best}”",
        Bootstrap(config.count, config.seed).of(lambda weights: ours(weights) - theirs(weights)),
    )
