"""`vlv eval lm-scale`: captions by the size of the language model (Table 5, right)."""

from typing import Any

from pydantic import Field

from vlv.evaluation.ablations.no_stage1 import FIGURE
from vlv.evaluation.ablations.runs import Run
from vlv.evaluation.ablations.shared import Ablation, AblationConfig
from vlv.evaluation.results import Claim, Progress, Result, silent

_PAPER = "table 5, right: FID at guidance 2 9.37, 7.30, 6.64 with 0.5B, 1.5B, 3B"


class LMScaleConfig(AblationConfig):
    """models: name -> fields of the language model's config that differ from `sizes`, in rising
    order of size. encoder: id or folder of a model whose encoder had its stage 1 with the same
    frozen components; None trains one.
    """

    models: dict[str, dict[str, Any]] = Field(
        default={
            "small": {
                "hidden_size": 96,
                "intermediate_size": 256,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
            },
            "medium": {"hidden_size": 144, "intermediate_size": 384, "num_hidden_layers": 3},
            "large": {},
        },
        min_length=2,
    )
    encoder: str | None = None


def evaluate(config: LMScaleConfig, progress: Progress = silent) -> Result:
    """Train each language model on text, then a stage 2 with it, and compare captions.

    Raises:
        TrainingError: runs failed.
    """
    sizes = config.model_sizes()
    names = list(config.models)
    groups = {
        (name,): [
            _run(config, _with_language_model(sizes, config.models[name]), seed)
            for seed in config.seeds_at(names, name)
        ]
        for name in names
    }
    ablation = Ablation(config, "captions", groups, progress)
    return Result(
        name="lm-scale",
        title="Captions by size of the language model",
        paper="table 5, right",
        rows=[ablation.row((name,), {"language model": name}) for name in names],
        claims=[
            Claim(
                statement="A larger language model makes better captions.",
                paper=_PAPER,
                measure=f"facts stated, {names[-1]} minus {names[0]}",
                difference=ablation.difference(FIGURE, (names[-1],), (names[0],)),
            )
        ],
        provenance=ablation.provenance("lm-scale"),
    )


def _run(config: LMScaleConfig, sizes: dict[str, Any], seed: int) -> Run:
    """Stage 2 with a language model of those sizes."""
    language_model = config.language_model_run(sizes)
    if config.encoder is None:
        return config.stage2_run(
            seed, config.stage1_run(seed), language_model, denoising_weight=0.0
        )
    return config.stage2_of(config.encoder, seed, language_model, denoising_weight=0.0)


def _with_language_model(sizes: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {**sizes, "language_model": {**sizes["language_model"], **changes}}
