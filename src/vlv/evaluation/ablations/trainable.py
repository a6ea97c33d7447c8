"""`vlv eval trainable`: what stage 2 has to train (Table 4, right)."""

from itertools import pairwise

from vlv.evaluation.ablations.no_stage1 import FIGURE
from vlv.evaluation.ablations.shared import Ablation, AblationConfig
from vlv.evaluation.results import Claim, Progress, Result, Row, silent

# As the paper names them -> what trains.
ARMS = {
    "MLP": ["psi"],
    "MLP + LM": ["psi", "language_model"],
    "MLP + LM + encoder": ["psi", "language_model", "vision", "encoder"],
}
_PAPER = "table 4, right: FID at guidance 2 9.71, 7.55, 6.64 with MLP, + LM, + encoder"


class TrainableConfig(AblationConfig):
    """`stage2` says how long every arm trains; all arms have the seeds of end points."""


def evaluate(config: TrainableConfig, progress: Progress = silent) -> Result:
    """Train a stage 2 for each set of parts, from the same stage 1, and compare captions.

    Raises:
        TrainingError: runs failed.
    """
    language_model = config.language_model_run()
    groups = {
        (arm,): [
            config.stage2_run(
                seed,
                config.stage1_run(seed),
                language_model,
                trainable=parts,
                denoising_weight=0.0,
            )
            for seed in range(config.seeds)
        ]
        for arm, parts in ARMS.items()
    }
    ablation = Ablation(config, "captions", groups, progress)
    arms = list(ARMS)
    return Result(
        name="trainable",
        title="Captions by what stage 2 trains",
        paper="table 4, right",
        rows=[
            Row({"trains": arm, "seeds": config.seeds}, config.count, ablation.figures((arm,)))
            for arm in arms
        ],
        claims=[
            Claim(
                statement=f"{more} makes better captions than {less}.",
                paper=_PAPER,
                measure="facts told, difference",
                difference=ablation.difference(FIGURE, (more,), (less,)),
            )
            for less, more in pairwise(arms)
        ],
        provenance=ablation.provenance("trainable"),
    )
