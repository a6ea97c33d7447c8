"""`vlv eval self-training`: can the frozen diffusion decoder improve a caption decoder?

A caption decoder is trained on few pairs. From there, rounds of self-training on pseudo-captions
that the diffusion decoder selects are compared with rounds with other selectors (random, the
likelihood of the caption decoder, the truth as the ceiling), and with more training on the pairs
only, with as much computation.
"""

from typing import Any

from pydantic import AliasChoices, Field

from vlv.evaluation.ablations.runs import Run
from vlv.evaluation.ablations.shared import Ablation, AblationConfig, base_fields
from vlv.evaluation.results import Claim, Progress, Result, silent

BEFORE, PAIRS_ONLY = "before", "pairs only"
SELECTORS = ("random", "likelihood", "decoder", "truth")
VARIANTS = (BEFORE, PAIRS_ONLY, *SELECTORS)
_NONE = "not in the paper"
_OTHERS = {
    BEFORE: "it was before",
    PAIRS_ONLY: "more training on the pairs makes it",
    "random": "random pseudo-captions make it",
    "likelihood": "the most likely pseudo-captions make it",
}


class SelfTrainingAblationConfig(AblationConfig):
    """pairs: how many. steps: of stage 2 on them, by number of pairs. pairs_only_steps: of the
    variant that trains on nothing else; they match the computation of the rounds with the decoder.
    rounds, images, samples, pair_share: of self-training. round_stage2: the fields in which its
    stage 2 differs. pool, first_seed: of the scenes, the pairs among them; no component has seen
    these. encoder: id or folder of a model whose encoder had its stage 1 with the same frozen
    components; None trains one.
    """

    pairs: list[int] = Field(default=[100, 1000], min_length=1)
    steps: list[int] = Field(default=[100, 200], min_length=1)
    pairs_only_steps: list[int] = Field(
        default=[500, 600],
        min_length=1,
        validation_alias=AliasChoices("pairs_only_steps", "alone_steps"),
    )
    rounds: int = Field(2, ge=1)
    images: int = Field(500, ge=1)
    samples: int = Field(8, ge=2)
    pair_share: float = Field(0.25, ge=0, lt=1)
    pool: int = Field(4096, ge=1)
    first_seed: int = 3_000_000
    encoder: str | None = None
    round_stage2: dict[str, int | float] = Field(
        default={"max_train_steps": 100, "learning_rate": 2e-4},
        validation_alias=AliasChoices("round_stage2", "teaching"),
    )


def evaluate(config: SelfTrainingAblationConfig, progress: Progress = silent) -> Result:
    """Train what is missing, and compare.

    Raises:
        TrainingError: runs failed.
    """
    groups = plan(config)
    ablation = Ablation(config, "captions", groups, progress)
    rows = [
        ablation.row((variant, pairs), {"pairs": pairs, "variant": variant})
        for pairs in config.pairs
        for variant in VARIANTS
    ]
    return Result(
        name="self-training",
        title="Self-training of a caption decoder that has few pairs",
        paper=_NONE,
        rows=rows,
        claims=_claims(config, ablation),
        provenance=ablation.provenance("self-training"),
    )


def plan(config: SelfTrainingAblationConfig) -> dict[tuple[str, int], list[Run]]:
    """The runs of every variant and number of pairs, one a seed."""
    return {
        (variant, pairs): [run_of(config, variant, at, seed) for seed in range(config.seeds)]
        for at, pairs in enumerate(config.pairs)
        for variant in VARIANTS
    }


def run_of(config: SelfTrainingAblationConfig, variant: str, at: int, seed: int) -> Run:
    """The run of a variant at one of the numbers of pairs; a selector is a variant."""
    before = _on_pairs(config, at, seed, config.steps)
    if variant == BEFORE:
        return before
    if variant == PAIRS_ONLY:
        return _on_pairs(config, at, seed, config.pairs_only_steps)
    stage2 = {**base_fields("stage2"), **config.stage2, **config.round_stage2}
    fields = {
        "data": scenes_of(config, config.pool),
        "seed": seed,
        "pairs": config.pairs[at],
        "rounds": config.rounds,
        "images": config.images,
        "samples": config.samples,
        "pair_share": config.pair_share,
        "choose": variant,
        # A round is short, and its last weights are kept.
        "stage2": {k: value for k, value in stage2.items() if k not in ("data", "patience")},
    }
    return Run("self-training", fields, None, {"start": before})


def _on_pairs(config: SelfTrainingAblationConfig, at: int, seed: int, steps: list[int]) -> Run:
    """Stage 2 on the pairs only; the weights that are best on held-out captions are kept."""
    changes = {
        "data": {**scenes_of(config, config.pairs[at]), "one_caption": True},
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


def scenes_of(config: SelfTrainingAblationConfig, count: int) -> dict[str, Any]:
    """The first `count` scenes of the pool."""
    return {**config.stage2.get("data", {}), "first_seed": config.first_seed, "count": count}


def _claims(config: SelfTrainingAblationConfig, ablation: Ablation) -> list[Claim]:
    return [
        Claim(
            statement=f"With {pairs} pairs, pseudo-captions that the diffusion decoder selects "
            f"make the caption decoder better than {_OTHERS[other]}.",
            paper=_NONE,
            measure=measure,
            difference=ablation.difference(figure, ("decoder", pairs), (other, pairs)),
        )
        for pairs in config.pairs
        for other in _OTHERS
        for figure, measure in (
            ("precision", "claims that are true, difference"),
            ("recall", "facts stated, difference"),
        )
    ]
