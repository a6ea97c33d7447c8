"""What the recipes for full size compute, counted on boxes without weights.

Cards and prices are elsewhere (`tables/cost.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlv.evaluation.metrics.flops import encoder_step
from vlv.evaluation.results import Progress
from vlv.training.cost.flops import step_flops
from vlv.training.cost.work import CAPTION_TOKENS
from vlv.training.recipes import recipe_config, recipe_skeleton, recipes
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.stage1 import Stage1Config
from vlv.training.stages.stage2 import Stage2Config

BOTH = "stages 1 and 2"


@dataclass(frozen=True)
class Cost:
    """Operations of a stage or a recipe, and the number of samples."""

    samples: int
    flops: float

    def hours(self, peak: float, utilisation: float) -> float:
        """GPU hours at a share of a card's peak."""
        return self.flops / (peak * utilisation) / 3600


@dataclass(frozen=True)
class Recipe:
    """What is priced: a file of configs/paper, with changes of some fields."""

    name: str
    stage: str
    changes: Mapping[str, Any]

    @property
    def config(self) -> EncoderStageConfig:
        """The config that is priced."""
        (path,) = (path for path in recipes() if path.stem == self.stage)
        return recipe_config(path).model_copy(update=dict(self.changes))

    @property
    def caption_tokens(self) -> int:
        """Length of the captions, truncated to what the config allows."""
        config = self.config
        return min(CAPTION_TOKENS, config.max_tokens) if isinstance(config, Stage2Config) else 0

    @property
    def samples(self) -> int:
        """Number of pictures that are seen."""
        config = self.config
        batch = config.train_batch_size * config.gradient_accumulation_steps
        return config.max_train_steps * batch

    def __str__(self) -> str:
        """In a sentence, from the config."""
        config = self.config
        clauses = [f"{self.name}, {self.stage}: configs/paper/{self.stage}.yaml"]
        if self.changes:
            clauses.append("with " + ", ".join(f"{k}={_yaml(v)}" for k, v in self.changes.items()))
        clauses.append(f"trains {', '.join(_trained(config))}")
        clauses.append(
            f"on {self.samples:,} pictures, {self.samples // config.max_train_steps} a step"
        )
        if isinstance(config, Stage2Config):
            language_model = "" if config.language_model is None else config.language_model.name
            clauses.append(f"and captions of {self.caption_tokens} tokens, with {language_model}")
            clauses.append(
                f"denoising loss with weight {config.denoising_weight:g}"
                if config.denoising_weight
                else "without the denoising loss"
            )
        return ", ".join(clauses) + "."


# Checkpointing computes activations twice to save memory; they are counted once.
_ONCE = {"gradient_checkpointing": None}
# The paper's stage 2 has the caption loss only; the recipe here keeps the denoising loss too.
PAPER = (
    Recipe("paper", "stage1", _ONCE),
    Recipe("paper", "stage2", {**_ONCE, "denoising_weight": 0.0}),
)
HERE = (Recipe("configs/paper", "stage1", _ONCE), Recipe("configs/paper", "stage2", _ONCE))


def recipe_cost(recipe: Recipe, size: int) -> Cost:
    """The cost of one stage, with the encoder's picture at `size` px."""
    config = recipe.config
    assert isinstance(config, Stage1Config | Stage2Config)  # there are no other recipes
    model = recipe_skeleton(config)
    settings = model.encoder.settings
    model.encoder.settings = settings.model_copy(update={"image_size": size})
    flops = step_flops(*encoder_step(config, model, recipe.caption_tokens))
    return Cost(recipe.samples, float(recipe.samples * flops))


def recipe_costs(sizes: Iterable[int], progress: Progress) -> dict[tuple[str, int, str], Cost]:
    """Stages and their sums by name of the recipe, size of the encoder's picture, and stage."""
    known: dict[tuple[str, int], Cost] = {}
    jobs = [(size, recipe) for size in sizes for recipe in (*PAPER, *HERE)]
    found: dict[tuple[str, int, str], Cost] = {}
    for size, recipe in progress(jobs, total=len(jobs), unit="stage", description="recipes"):
        # Stages that two recipes share are counted once.
        key = (recipe.config.model_dump_json(), size)
        if key not in known:
            known[key] = recipe_cost(recipe, size)
        found[recipe.name, size, recipe.stage] = known[key]
        stages = [
            cost for (name, px, _), cost in found.items() if (name, px) == (recipe.name, size)
        ]
        if len(stages) == 2:
            total = Cost(sum(c.samples for c in stages), sum(c.flops for c in stages))
            found[recipe.name, size, BOTH] = total
    return found


def _yaml(value: Any) -> str:
    return "null" if value is None else f"{value:g}"


def _trained(config: EncoderStageConfig) -> Sequence[str]:
    trainable: Sequence[str] | None = getattr(config, "trainable", None)
    return trainable or ("vision", "encoder")
