"""`vlv eval trainable`: what stage 2 has to train (Table 4, right)."""

from itertools import pairwise

from vlv.evaluation.ablations.no_stage1 import FIGURE
from vlv.evaluation.ablations.shared import Ablation, AblationConfig
from vlv.evaluation.results import Claim, Progress, Result, silent

# Names of the paper -> what is trainable.
VARIANTS = {
    "MLP": ["psi"],
    "MLP + LM": ["psi", "language_model"],
    "MLP + LM + encoder": ["psi", "language_model", "vision", "encoder"],
}
_PAPER = "table 4, right: FID at guidance 2 9.71, 7.55, 6.64 with MLP, + LM, + encoder"


class TrainableConfig(AblationConfig):
    """`stage2` sets how long every variant trains. All variants have all seeds."""


def evaluate(config: TrainableConfig, progress: Progress = silent) -> Result:
    """Train a stage 2 for each set of trainable parameters, from one stage 1; compare captions.

    Raises:
        TrainingError: runs failed.
    """
    language_model = config.language_model_run()
    groups = {
        (variant,): [
            config.stage2_run(
                seed,
                config.stage1_run(seed),
                language_model,
                trainable=trainable,
                denoising_weight=0.0,
            )
            for seed in range(config.seeds)
        ]
        for variant, trainable in VARIANTS.items()
    }
    ablation = Ablation(config, "captions", groups, progress)
    variants = list(VARIANTS)
    return Result(
        name="trainable",
        title="Captions by what stage 2 trains",
        paper="table 4, right",
        rows=[ablation.row((variant,), {"trains": variant}) for variant in variants],
        claims=[
            Claim(
                statement=f"{more} makes better captions than {less}.",
                paper=_PAPER,
                measure="facts stated, difference",
                difference=ablation.difference(FIGURE, (more,), (less,)),
            )
            for less, more in pairwise(variants)
        ],
        provenance=ablation.provenance("trainable"),
    )
