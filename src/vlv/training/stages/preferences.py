"""Building the stage `preferences`: a caption decoder learns from judged words of its captions."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from vlv.checkpoints.adapters import captioner_hash
from vlv.checkpoints.opening import load_model
from vlv.errors import ConfigError, TrainingError
from vlv.text import read_object
from vlv.training.config import TrainingConfig
from vlv.training.model_names import has_decoder, model_folder
from vlv.training.objectives.encoding import StageBoxes
from vlv.training.objectives.preferences import PreferenceLoss, PreferenceObjective
from vlv.training.provenance import RECORD, START_HASH, inherited, record_of
from vlv.training.samples.preferences import Judge, PreferenceSamples, Preferring
from vlv.training.samples.tokens import CaptionTokens
from vlv.training.stage import Stage
from vlv.training.stages.common import warn_of_unread_model
from vlv.training.stages.encoding import open_images, prepare

logger = logging.getLogger(__name__)

NAME = "preferences"


class PreferencesConfig(TrainingConfig):
    """`start` is the model that wrote the captions in `preferences`, a file that
    `vlv data preferences` made of pictures of `data`. The encoder is frozen.

    `judge` decides which of two words is better: the decoder, where its error changes by at least
    `least_gain` of itself, or for comparison the truth of the embedded world, or chance. The loss
    of a preference is `dpo` (with `beta`) or the `likelihood` of the better word; it counts
    `preference_weight` against the loss of a pair's caption. At a share `pair_share` of positions
    a pair of the file is seen.
    """

    start: Path
    preferences: Path
    judge: Judge = "decoder"
    least_gain: float = Field(0.02, ge=0)
    preference_loss: PreferenceLoss = "dpo"
    beta: float = Field(0.5, gt=0)
    preference_weight: float = Field(1.0, gt=0)
    pair_share: float = Field(0.25, ge=0, lt=1)
    trainable: list[Literal["psi", "language_model"]] = Field(
        default=["psi", "language_model"], min_length=1
    )
    max_tokens: int = Field(96, gt=0)

    @property
    def trained(self) -> Sequence[str]:
        """Names of what trains."""
        return self.trainable


def build(config: PreferencesConfig) -> Stage:
    """The stage with its boxes and its judged captions.

    Raises:
        ConfigError: `start` has no caption decoder, or did not make `preferences`.
    """
    warn_of_unread_model(config, config.start)
    folder = model_folder(config.start)
    _require_made_by(folder, config)
    model = load_model(folder)
    if "caption_decoder" not in model.manifest.components:
        raise ConfigError(f"{config.start} has no caption decoder to train; name a model with one")
    boxes = StageBoxes(
        encoder=model.encoder,
        text_tower=model.text_tower,
        decoder=model.decoder if has_decoder(model) else None,
        caption_decoder=model.caption_decoder,
        image_size=model.manifest.config.decoder_image_size,
        provenance=inherited(model.provenance),
        before=record_of(folder, NAME),
    )
    store, held_out = open_images(config, boxes.image_size, captioned=False, denoises=False)
    objective = PreferenceObjective(
        boxes,
        config.trainable,
        held_out,
        loss=config.preference_loss,
        beta=config.beta,
        weight=config.preference_weight,
        max_tokens=config.max_tokens,
        captions_from=model.manifest.config.captions_from,
    )
    prepare(objective, store, config)
    samples = PreferenceSamples(
        store,
        config.preferences,
        CaptionTokens(model.caption_decoder.tokenizer, config.max_tokens),
        Preferring(config.judge, config.least_gain, config.seed),
        config.pair_share,
    )
    return Stage(NAME, config, objective, samples, boxes.before)


def _require_made_by(folder: Path, config: PreferencesConfig) -> None:
    """The log-odds in a file are those of the model that made it, and of no other."""
    path = config.preferences.parent / RECORD
    record = read_object(path, TrainingError) if path.is_file() else {}
    made_by = record.get(START_HASH)
    if made_by is None:
        logger.warning(
            "%s has no record beside it of the model that made it; its log-odds hold for %s only "
            "if that did",
            *(config.preferences, config.start),
        )
    elif made_by != captioner_hash(folder):
        raise ConfigError(
            f"{config.preferences} was made by another model than {config.start}, or before its "
            "weights changed; set start to the model that made it, or make it again with `vlv "
            "data preferences`"
        )
