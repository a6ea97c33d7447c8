"""`vlv eval data-scale`: reconstruction by the images that stage 1 saw (Tables 5 and 6)."""

from pydantic import Field

from vlv.evaluation.ablations.shared import Ablation, AblationConfig
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.results import Claim, Progress, Result, silent

_CLAIMS = {
    "f1": (
        "More images in stage 1 reconstruct better.",
        "table 5: FID at guidance 2 9.01, 7.57, 7.22 after 6M, 18M, 40M images",
        "F1 of objects",
    ),
    "centre_error": (
        "More images in stage 1 place objects better.",
        "table 6: centre error .1625, .1498, .1402, .0988 after 8M, 18M, 34M, 40M images",
        "centre error, decrease",
    ),
    "rotation_error": (
        "More images in stage 1 turn objects better.",
        "table 6: angle error .1564, .1287, .1227, .1016",
        "rotation error of cubes in degrees, decrease",
    ),
    "size_accuracy": (
        "More images in stage 1 draw sizes better.",
        "table 6: scale error .1775, .1773, .1835, .1222",
        "share of objects found that have the right size",
    ),
}
_ERRORS = ("centre_error", "rotation_error")


class DataScaleConfig(AblationConfig):
    """steps: of stage 1, in rising order; each sees `train_batch_size` images."""

    steps: list[int] = Field(default=[125, 300, 800, 2000], min_length=2)


def evaluate(config: DataScaleConfig, progress: Progress = silent) -> Result:
    """Train a stage 1 for each number of images, each with its own schedule, and compare.

    Raises:
        TrainingError: runs failed.
    """
    groups = {
        (steps,): [
            config.stage1_run(seed, max_train_steps=steps)
            for seed in config.seeds_at(config.steps, steps)
        ]
        for steps in config.steps
    }
    ablation = Ablation(config, "pictures", groups, progress)
    rows = [
        ablation.row((steps,), {"images": int(ablation.measured[steps,][0].run["samples_seen"])})
        for steps in config.steps
    ]
    return Result(
        name="data-scale",
        title="Reconstruction by images seen in stage 1",
        paper="tables 5 and 6",
        rows=rows,
        claims=[
            Claim(
                statement,
                paper,
                f"{measure}, most images against fewest",
                _gain(config, ablation, name),
            )
            for name, (statement, paper, measure) in _CLAIMS.items()
        ],
        provenance=ablation.provenance("data-scale"),
    )


def _gain(config: DataScaleConfig, ablation: Ablation, name: str) -> Figure:
    """How much better the most images are than the fewest."""
    few, many = (config.steps[0],), (config.steps[-1],)
    if name in _ERRORS:
        few, many = many, few
    return ablation.difference(name, many, few)
