"""`vlv eval preferences`: does a caption decoder improve where the frozen diffusion decoder judges
single words of its captions?

A caption decoder is trained on few pairs. From there, training on preferences between words is
compared with training on whole captions, chance, and more training on the pairs, with as much
computation. The truth takes the place of one link after another: of the decoder's score, of the
words that are tried, of the credit that a word gets alone, and of the captions themselves.
"""

from typing import Any

from pydantic import Field, field_validator

from vlv.evaluation.ablations import self_training
from vlv.evaluation.ablations.runs import Run
from vlv.evaluation.ablations.self_training import (
    BEFORE,
    PAIRS_ONLY,
    SelfTrainingAblationConfig,
    scenes_of,
)
from vlv.evaluation.ablations.shared import Ablation, base_fields
from vlv.evaluation.results import Claim, Progress, Result, silent

DECODER = "words by decoder"
RANDOM = "words at random"
PICTURE = "captions by drawing"
TRUE_SCORES = "words by truth"
TRUE_WORDS = "true words by decoder"
TRUE_CREDIT = "captions by truth"
TRUE_CAPTIONS = "true captions"
# Of preferences between words: who names the other words, and who judges.
_WORDS = {
    DECODER: ("model", "decoder"),
    RANDOM: ("model", "random"),
    TRUE_SCORES: ("model", "truth"),
    TRUE_WORDS: ("truth", "decoder"),
}
# Of whole captions: the selector.
_CAPTIONS = {PICTURE: "picture", TRUE_CREDIT: "truth"}
VARIANTS = (BEFORE, PAIRS_ONLY, *_CAPTIONS, *_WORDS, TRUE_CAPTIONS)
_NONE = "not in the paper"
_OTHERS = {
    BEFORE: "it was before",
    PAIRS_ONLY: "more training on the pairs makes it",
    RANDOM: "the same words judged at random make it",
    PICTURE: "whole captions, drawn and compared, make it",
}


class PreferencesAblationConfig(SelfTrainingAblationConfig):
    """variants: of the table's rows. images, samples, rounds: of the variants with whole captions,
    as in self-training. word_images: of which a caption's words are judged; fewer or more than
    `images`, so that both take as long. preference_data: fields in which their judging differs from
    the defaults of `vlv data preferences`. preferences: fields of the stage `preferences`. Steps
    and learning rate are those of `round_stage2`, times the rounds.
    """

    variants: list[str] = list(VARIANTS)
    pairs: list[int] = Field(default=[1000], min_length=1)
    steps: list[int] = Field(default=[600], min_length=1)
    pairs_only_steps: list[int] = Field(default=[1200], min_length=1)
    rounds: int = Field(1, ge=1)
    samples: int = Field(4, ge=2)
    word_images: int = Field(1000, ge=1)
    preference_data: dict[str, Any] = {}
    preferences: dict[str, Any] = {}

    @field_validator("variants")
    @classmethod
    def _known(cls, variants: list[str]) -> list[str]:
        if unknown := [one for one in variants if one not in VARIANTS]:
            raise ValueError(f"there is no variant {unknown[0]!r}; known: {', '.join(VARIANTS)}")
        return [one for one in VARIANTS if one in variants]


def evaluate(config: PreferencesAblationConfig, progress: Progress = silent) -> Result:
    """Train what is missing, and compare.

    Raises:
        TrainingError: runs failed.
    """
    ablation = Ablation(config, "captions", plan(config), progress)
    return Result(
        name="preferences",
        title="A caption decoder that has few pairs, and words that the decoder judges",
        paper=_NONE,
        rows=[
            ablation.row((variant, pairs), {"pairs": pairs, "variant": variant})
            for pairs in config.pairs
            for variant in config.variants
        ],
        claims=_claims(config, ablation),
        provenance=ablation.provenance("preferences"),
    )


def plan(config: PreferencesAblationConfig) -> dict[tuple[str, int], list[Run]]:
    """The runs of every variant and number of pairs, one a seed."""
    return {
        (variant, pairs): [_run(config, variant, at, seed) for seed in range(config.seeds)]
        for at, pairs in enumerate(config.pairs)
        for variant in config.variants
    }


def _run(config: PreferencesAblationConfig, variant: str, at: int, seed: int) -> Run:
    if variant in _WORDS:
        return _on_words(config, variant, at, seed)
    if variant == TRUE_CAPTIONS:
        return _on_true_captions(config, at, seed)
    return self_training.run_of(config, _CAPTIONS.get(variant, variant), at, seed)


def _on_words(config: PreferencesAblationConfig, variant: str, at: int, seed: int) -> Run:
    """The stage `preferences`. Judges of the same words share the file."""
    alternatives, judge = _WORDS[variant]
    before = self_training.run_of(config, BEFORE, at, seed)
    data = scenes_of(config, config.pool)
    judging = {
        **config.preference_data,
        "data": data,
        "seed": seed,
        "pairs": config.pairs[at],
        "images": config.word_images,
        "alternatives": alternatives,
    }
    file = Run("preference-data", judging, None, {"start": before})
    fields = {
        **_training(config),
        "pair_share": config.pair_share,
        **config.preferences,
        "data": data,
        "seed": seed,
        "judge": judge,
    }
    return Run("preferences", fields, None, {"start": before, "preferences": file})


def _on_true_captions(config: PreferencesAblationConfig, at: int, seed: int) -> Run:
    """Stage 2 on the pairs and as many true captions as there are judged ones."""
    before = self_training.run_of(config, BEFORE, at, seed)
    count = config.pairs[at] + config.word_images
    fields = {
        **_training(config),
        "data": {**scenes_of(config, count), "one_caption": True},
        "seed": seed,
        "trainable": ["psi", "language_model"],
        "denoising_weight": 0.0,
    }
    return Run("stage2", fields, None, {"stage1": before, "caption_decoder": before})


def _training(config: PreferencesAblationConfig) -> dict[str, Any]:
    """Fields of training from the start on, the same for all variants."""
    fields = {**base_fields("stage2"), **config.stage2, **config.round_stage2}
    fields["max_train_steps"] = int(fields["max_train_steps"]) * config.rounds
    # It is short, and its last weights are kept. The denoising loss is off.
    left_out = ("data", "patience", "timestep_bias")
    return {name: value for name, value in fields.items() if name not in left_out}


def _claims(config: PreferencesAblationConfig, ablation: Ablation) -> list[Claim]:
    if DECODER not in config.variants:
        return []
    return [
        Claim(
            statement=f"With {pairs} pairs, words that the diffusion decoder judges make the "
            f"caption decoder better than {_OTHERS[other]}.",
            paper=_NONE,
            measure=measure,
            difference=ablation.difference(figure, (DECODER, pairs), (other, pairs)),
        )
        for pairs in config.pairs
        for other in _OTHERS
        if other in config.variants
        for figure, measure in (
            ("precision", "claims that are true, difference"),
            ("recall", "facts stated, difference"),
        )
    ]
