"""`vlv eval self-teach`: can the frozen decoder teach a captioner that has few pairs?

From a captioner that learned from few pairs: rounds of self-teaching in which the decoder chooses,
and the same rounds with another choice (none, the captioner's own likelihood, the truth as the
ceiling); and more training on the same pairs alone, with the steps that cost as much.
"""

from typing import Any

from pydantic import Field

from vlv.evaluation.ablations.runs import Run
from vlv.evaluation.ablations.shared import Ablation, AblationConfig, mini_fields
from vlv.evaluation.results import Claim, Progress, Result, Row, silent

BEFORE, ALONE = "before", "pairs alone"
WAYS = ("random", "likelihood", "decoder", "truth")
ARMS = (BEFORE, ALONE, *WAYS)
_NONE = "not in the paper"
_OTHERS = {
    BEFORE: "it was before",
    ALONE: "more training on the same pairs makes it",
    "random": "a caption taken at random makes it",
    "likelihood": "the likeliest caption makes it",
}


class SelfTrainingAblationConfig(AblationConfig):
    """pairs: how many. steps: of stage 2 on them, by number of pairs. alone_steps: of the arm that
    trains on nothing else, to match what the rounds with the decoder compute. rounds, images,
    samples, pair_share: of self-teaching; teaching: the fields in which its stage 2 differs. pool,
    first_seed: of the scenes, pairs among them, new to all parts. encoder: a model, by id or
    folder, whose encoder learned in stage 1 on the frozen parts; None trains one.
    """

    pairs: list[int] = Field(default=[100, 1000], min_length=1)
    steps: list[int] = Field(default=[100, 200], min_length=1)
    alone_steps: list[int] = Field(default=[500, 600], min_length=1)
    rounds: int = Field(2, ge=1)
    images: int = Field(500, ge=1)
    samples: int = Field(8, ge=2)
    pair_share: float = Field(0.25, ge=0, lt=1)
    pool: int = Field(4096, ge=1)
    first_seed: int = 3_000_000
    encoder: str | None = None
    teaching: dict[str, int | float] = {"max_train_steps": 100, "learning_rate": 2e-4}


def evaluate(config: SelfTrainingAblationConfig, progress: Progress = silent) -> Result:
    """Train what is missing and compare.

    Raises:
        TrainingError: runs failed.
    """
    groups = plan(config)
    ablation = Ablation(config, "captions", groups, progress)
    rows = [
        Row(
            {"pairs": pairs, "arm": arm, "seeds": config.seeds},
            config.count,
            ablation.figures((arm, pairs)),
        )
        for pairs in config.pairs
        for arm in ARMS
    ]
    return Result(
        name="self-teach",
        title="Captions that the decoder taught",
        paper=_NONE,
        rows=rows,
        claims=_claims(config, ablation),
        provenance=ablation.provenance("self-teach"),
    )


def plan(config: SelfTrainingAblationConfig) -> dict[tuple[str, int], list[Run]]:
    """The runs of every arm and number of pairs, one a seed."""
    return {
        (arm, pairs): [_run(config, arm, at, seed) for seed in range(config.seeds)]
        for at, pairs in enumerate(config.pairs)
        for arm in ARMS
    }


def _run(config: SelfTrainingAblationConfig, arm: str, at: int, seed: int) -> Run:
    """The run of an arm at one of the numbers of pairs."""
    before = _on_pairs(config, at, seed, config.steps)
    if arm == BEFORE:
        return before
    if arm == ALONE:
        return _on_pairs(config, at, seed, config.alone_steps)
    stage2 = {**mini_fields("stage2"), **config.stage2, **config.teaching}
    fields = {
        "data": _scenes(config, config.pool),
        "seed": seed,
        "pairs": config.pairs[at],
        "rounds": config.rounds,
        "images": config.images,
        "samples": config.samples,
        "pair_share": config.pair_share,
        "choose": arm,
        # A round is short, and what it ends with is kept.
        "stage2": {k: value for k, value in stage2.items() if k not in ("data", "patience")},
    }
    return Run("self-teach", fields, None, {"start": before})


def _on_pairs(config: SelfTrainingAblationConfig, at: int, seed: int, steps: list[int]) -> Run:
    """The captioner trained on pairs alone; the steps are kept that are best on held-out ones."""
    changes = {
        "data": {**_scenes(config, config.pairs[at]), "one_caption": True},
        "max_train_steps": steps[at],
        "trainable": ["psi", "language_model"],
        "denoising_weight": 0.0,
        "keep_best": "caption_loss",
        "validation_steps": max(steps[at] // 20, 1),
    }
    language_model = config.language_model_run()
    if config.encoder is None:
        return config.stage2_run(seed, config.stage1_run(seed), language_model, **changes)
    return config.stage2_of(config.encoder, seed, language_model, **changes)


def _scenes(config: SelfTrainingAblationConfig, count: int) -> dict[str, Any]:
    return {**config.stage2.get("data", {}), "first_seed": config.first_seed, "count": count}


def _claims(config: SelfTrainingAblationConfig, ablation: Ablation) -> list[Claim]:
    return [
        Claim(
            statement=f"With {pairs} pairs, captions chosen by the decoder make the captioner "
            f"better than {_OTHERS[other]}.",
            paper=_NONE,
            measure=measure,
            difference=ablation.difference(figure, ("decoder", pairs), (other, pairs)),
        )
        for pairs in config.pairs
        for other in _OTHERS
        for figure, measure in (
            ("precision", "claims that are true, difference"),
            ("recall", "facts told, difference"),
        )
    ]
