"""`vlv eval no-stage1`: does learning from images alone save pairs? (Table 7)

Caption quality against the number of pairs, for three captioners of the same sizes:

- stage 1: an encoder from stage 1, then stage 2 on the pairs;
- scratch: the same model, its encoder fresh, given the steps of both stages' computation;
- direct: as scratch, but the language model reads z, past the frozen text tower;
- long stage 1: an encoder whose stage 1 was much longer, and which stays as it is: psi and the
  language model alone learn from the pairs. That stage 1's computation is not given to the arms
  without; the arm tells whether stage 1 was too short to help, or undone by stage 2.

All train on the same pairs, with one caption each, and keep the weights that did best on held-out
captions, so that none is punished for steps that only overfit.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from vlv.evaluation.ablations.runs import Run
from vlv.evaluation.ablations.shared import Ablation, AblationConfig
from vlv.evaluation.metrics.statistics import Figure, figure_of
from vlv.evaluation.results import Claim, Progress, Result, Row, silent

ARMS = ("stage 1", "scratch", "direct")
LONG = "long stage 1, at rest"
# What a caption is judged by where one figure has to stand for all.
FIGURE = "recall"
_PAPER = (
    "table 7: FID at guidance 1 to 4 without stage 1 45.63, 51.03, 53.28, 54.40, with it "
    "12.22, 7.55, 9.58, 10.84"
)


class NoStage1Config(AblationConfig):
    """pairs: how many, in rising order. steps: of stage 2 after stage 1, by number of pairs.

    scratch_steps: of the arms without stage 1; what they have more is stage 1's computation.
    long_stage1: a model, by id or folder, whose encoder learned longer on the frozen parts; with
    one seed, for the numbers of pairs up to long_pairs. None leaves that arm out.
    """

    pairs: list[int] = Field(default=[512, 2048, 8192, 51200], min_length=2)
    steps: list[int] = Field(default=[100, 200, 300, 400], min_length=2)
    scratch_steps: list[int] = Field(default=[400, 500, 600, 700], min_length=2)
    long_stage1: str | None = None
    long_pairs: int | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """The captioners that are compared."""
        return ARMS if self.long_stage1 is None else (*ARMS, LONG)

    def pairs_of(self, arm: str) -> list[int]:
        """The numbers of pairs that an arm is trained on."""
        most = self.long_pairs if arm == LONG else None
        return [pairs for pairs in self.pairs if most is None or pairs <= most]


def evaluate(config: NoStage1Config, progress: Progress = silent) -> Result:
    """Train what is missing and compare.

    Raises:
        TrainingError: runs failed.
    """
    groups = plan(config)
    ablation = Ablation(config, "captions", groups, progress)
    rows = [
        Row(
            {"encoder": arm, "pairs": pairs, "seeds": len(groups[arm, pairs])},
            config.count,
            ablation.figures((arm, pairs)),
        )
        for arm in config.arms
        for pairs in config.pairs_of(arm)
    ]
    return Result(
        name="no-stage1",
        title="Captions by number of pairs, with stage 1 and without",
        paper="table 7",
        rows=rows,
        claims=_claims(config, ablation),
        notes=[
            _saving(config, ablation, arm, other)
            for arm in _STAGE1
            if arm in config.arms
            for other in _NAMES
        ],
        provenance=ablation.provenance("no-stage1"),
    )


def plan(config: NoStage1Config) -> dict[tuple[str, int], list[Run]]:
    """The runs of every arm and number of pairs, one a seed."""
    return {
        (arm, pairs): [
            _run(config, arm, number, seed)
            for seed in (range(1) if arm == LONG else config.seeds_at(config.pairs, pairs))
        ]
        for number, pairs in enumerate(config.pairs)
        for arm in config.arms
        if pairs in config.pairs_of(arm)
    }


def _run(config: NoStage1Config, arm: str, number: int, seed: int) -> Run:
    """The stage-2 run of an arm at one of the numbers of pairs."""
    steps = config.steps if arm in ("stage 1", LONG) else config.scratch_steps
    changes = {
        "data": {"count": config.pairs[number], "one_caption": True},
        "max_train_steps": steps[number],
        "denoising_weight": 0.0,
        "keep_best": "caption_loss",
        # Twenty chances to stop in time.
        "validation_steps": max(steps[number] // 20, 1),
    }
    language_model = config.language_model_run()
    if arm == "stage 1":
        return config.stage2_run(seed, config.stage1_run(seed), language_model, **changes)
    if arm == LONG and config.long_stage1 is not None:
        changes["trainable"] = ["psi", "language_model"]
        return config.stage2_of(config.long_stage1, seed, language_model, **changes)
    if arm == "direct":
        changes["captions_from"] = "z"
    return config.without_stage1(seed, language_model, **changes)


def _claims(config: NoStage1Config, ablation: Ablation) -> list[Claim]:
    return [
        Claim(
            statement=f"With {pairs} pairs, {_STAGE1[arm]} makes better captions than "
            f"{_NAMES[other]}.",
            paper=_PAPER,
            measure="facts told, difference",
            difference=ablation.difference(FIGURE, (arm, pairs), (other, pairs)),
        )
        for arm in _STAGE1
        if arm in config.arms
        for other in _NAMES
        for pairs in config.pairs_of(arm)
    ]


_STAGE1 = {
    "stage 1": "stage 1",
    LONG: "a longer stage 1, whose computation is not matched,",
}
_NAMES = {
    "scratch": "the same model without it",
    "direct": "a captioner that bypasses the text tower",
}


def _saving(config: NoStage1Config, ablation: Ablation, arm: str, other: str) -> str:
    """How many pairs an arm with stage 1 needs to be as good as another one gets with all."""
    pairs, most = config.pairs_of(arm), config.pairs[-1]
    goal = ablation.bootstrap.resampled(ablation.ratios((other, most), FIGURE))
    curve = np.stack(
        [ablation.bootstrap.resampled(ablation.ratios((arm, n), FIGURE)) for n in pairs]
    )
    needed = np.array(
        [pairs_needed(pairs, values, end) for values, end in zip(curve.T, goal, strict=True)]
    )
    factor = most / needed
    figure = figure_of(float(np.median(factor)), factor)
    return (
        f"{_NAMES[other].capitalize()} tells of a scene with {most} pairs what the model with "
        f"{arm} tells with {_told(figure, pairs, most)}."
    )


def pairs_needed(pairs: Sequence[int], values: Sequence[float], goal: float) -> float:
    """Where a curve over log(pairs) first reaches `goal`: its ends where it lies beyond them, and
    infinity where it never does.
    """
    logs = np.log(pairs)
    if values[0] >= goal:
        return float(pairs[0])
    for left in range(len(pairs) - 1):
        low, high = values[left], values[left + 1]
        if high >= goal:
            share = (goal - low) / (high - low)
            return float(np.exp(logs[left] + share * (logs[left + 1] - logs[left])))
    return float("inf")


def _told(factor: Figure, pairs: Sequence[int], most: int) -> str:
    if factor.value == 0:
        return f"more than {pairs[-1]}"
    bound = ", the least that was tried" if factor.high >= most / pairs[0] else ""
    return (
        f"{most / factor.value:.0f} ({factor.value:.1f} times fewer, 95% {factor.low:.1f} to "
        f"{factor.high:.1f}{bound})"
    )
