"""`vlv eval no-stage1`: does learning from images alone save pairs? (Table 7)

Caption quality by the number of pairs, for variants of one model of the same size:

- stage 1: an encoder from stage 1, then stage 2 on the pairs;
- scratch: the same model with a fresh encoder, and with the computation of both stages;
- direct: as scratch, but the language model reads z, without the frozen text tower;
- long stage 1, frozen: an encoder with a much longer stage 1, which is then frozen: only psi and
  the language model learn from the pairs. The other variants do not get the computation of that
  stage 1. This variant shows whether stage 1 was too short, or whether stage 2 undoes it.

All variants train on the same pairs, with one caption each. Each keeps the weights that were best
on held-out captions, so that no variant is penalised for steps that only overfit.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from vlv.evaluation.ablations.runs import Run
from vlv.evaluation.ablations.shared import Ablation, AblationConfig
from vlv.evaluation.metrics.statistics import Figure, figure_of
from vlv.evaluation.results import Claim, Progress, Result, silent

VARIANTS = ("stage 1", "scratch", "direct")
LONG = "long stage 1, frozen"
# The figure of captions that is compared.
FIGURE = "recall"
_PAPER = (
    "table 7: FID at guidance 1 to 4 without stage 1 45.63, 51.03, 53.28, 54.40, with it "
    "12.22, 7.55, 9.58, 10.84"
)


class NoStage1Config(AblationConfig):
    """pairs: how many, in rising order. steps: of stage 2 after stage 1, by number of pairs.

    scratch_steps: of the variants without stage 1; they include the computation of stage 1.
    long_stage1: id or folder of a model whose encoder had a longer stage 1 with the same frozen
    components. It has one seed, and numbers of pairs up to long_pairs. None omits the variant.
    """

    pairs: list[int] = Field(default=[512, 2048, 8192, 51200], min_length=2)
    steps: list[int] = Field(default=[100, 200, 300, 400], min_length=2)
    scratch_steps: list[int] = Field(default=[400, 500, 600, 700], min_length=2)
    long_stage1: str | None = None
    long_pairs: int | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that are compared."""
        return VARIANTS if self.long_stage1 is None else (*VARIANTS, LONG)

    def pairs_of(self, variant: str) -> list[int]:
        """The numbers of pairs that a variant is trained on."""
        most = self.long_pairs if variant == LONG else None
        return [pairs for pairs in self.pairs if most is None or pairs <= most]


def evaluate(config: NoStage1Config, progress: Progress = silent) -> Result:
    """Train what is missing, and compare.

    Raises:
        TrainingError: runs failed.
    """
    groups = plan(config)
    ablation = Ablation(config, "captions", groups, progress)
    rows = [
        ablation.row((variant, pairs), {"encoder": variant, "pairs": pairs})
        for variant in config.variants
        for pairs in config.pairs_of(variant)
    ]
    return Result(
        name="no-stage1",
        title="Captions by number of pairs, with stage 1 and without",
        paper="table 7",
        rows=rows,
        claims=_claims(config, ablation),
        notes=[
            _saving(config, ablation, variant, other)
            for variant in _STAGE1
            if variant in config.variants
            for other in _NAMES
        ],
        provenance=ablation.provenance("no-stage1"),
    )


def plan(config: NoStage1Config) -> dict[tuple[str, int], list[Run]]:
    """The runs of every variant and number of pairs, one a seed."""
    return {
        (variant, pairs): [
            _run(config, variant, number, seed)
            for seed in (range(1) if variant == LONG else config.seeds_at(config.pairs, pairs))
        ]
        for number, pairs in enumerate(config.pairs)
        for variant in config.variants
        if pairs in config.pairs_of(variant)
    }


def _run(config: NoStage1Config, variant: str, number: int, seed: int) -> Run:
    """The stage-2 run of a variant at one of the numbers of pairs."""
    steps = config.steps if variant in ("stage 1", LONG) else config.scratch_steps
    changes = {
        "data": {"count": config.pairs[number], "one_caption": True},
        "max_train_steps": steps[number],
        "denoising_weight": 0.0,
        "keep_best": "caption_loss",
        # Twenty times, so that the best weights are among them.
        "validation_steps": max(steps[number] // 20, 1),
    }
    language_model = config.language_model_run()
    if variant == "stage 1":
        return config.stage2_run(seed, config.stage1_run(seed), language_model, **changes)
    if variant == LONG and config.long_stage1 is not None:
        changes["trainable"] = ["psi", "language_model"]
        return config.stage2_of(config.long_stage1, seed, language_model, **changes)
    if variant == "direct":
        changes["captions_from"] = "z"
    return config.without_stage1(seed, language_model, **changes)


def _claims(config: NoStage1Config, ablation: Ablation) -> list[Claim]:
    return [
        Claim(
            statement=f"With {pairs} pairs, {_STAGE1[variant]} makes better captions than "
            f"{_NAMES[other]}.",
            paper=_PAPER,
            measure="facts stated, difference",
            difference=ablation.difference(FIGURE, (variant, pairs), (other, pairs)),
        )
        for variant in _STAGE1
        if variant in config.variants
        for other in _NAMES
        for pairs in config.pairs_of(variant)
    ]


_STAGE1 = {
    "stage 1": "stage 1",
    LONG: "a longer stage 1, whose computation is not matched,",
}
_NAMES = {
    "scratch": "the same model without it",
    "direct": "a caption decoder that bypasses the text tower",
}


def _saving(config: NoStage1Config, ablation: Ablation, variant: str, other: str) -> str:
    """How many pairs a variant with stage 1 needs to equal another variant with all pairs."""
    pairs, most = config.pairs_of(variant), config.pairs[-1]
    bootstrap = ablation.bootstrap
    end, *points = (
        ablation.ratios(key, FIGURE) for key in ((other, most), *((variant, n) for n in pairs))
    )
    goal, curve = bootstrap.resampled(end), np.stack([bootstrap.resampled(one) for one in points])
    needed = np.array(
        [pairs_needed(pairs, values, one) for values, one in zip(curve.T, goal, strict=True)]
    )
    measured = [bootstrap.figure(one).value for one in points]
    value = most / pairs_needed(pairs, measured, bootstrap.figure(end).value)
    figure = figure_of(value, most / needed)
    return (
        f"{_NAMES[other].capitalize()} states as many facts with {most} pairs as the model with "
        f"{variant} with {_needed(figure, pairs, most)}."
    )


def pairs_needed(pairs: Sequence[int], values: Sequence[float], goal: float) -> float:
    """Where a curve over log(pairs) first reaches `goal`: its first point if that is above the
    goal, and infinity if it never reaches it.
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


def _needed(factor: Figure, pairs: Sequence[int], most: int) -> str:
    if factor.value == 0:
        return f"more than {pairs[-1]}"
    bound = ", the least that was tried" if factor.high >= most / pairs[0] else ""
    return (
        f"{most / factor.value:.0f} ({factor.value:.1f} times fewer, 95% {factor.low:.1f} to "
        f"{factor.high:.1f}{bound})"
    )
