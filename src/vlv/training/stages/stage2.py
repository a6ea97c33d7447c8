"""Building stage 2: a language model learns to read the caption embeddings."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from vlv.checkpoints.boxes import load_caption_decoder, load_encoder
from vlv.checkpoints.language_model import load_language_model
from vlv.errors import ConfigError
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import CaptionsFrom
from vlv.models.encoder import VLVEncoder
from vlv.models.vlv import VLVModel
from vlv.training.model_names import (
    component_folder,
    has_decoder,
    language_model_folder,
    open_model,
)
from vlv.training.objectives.encoding import StageBoxes
from vlv.training.objectives.stage2 import Stage2Objective
from vlv.training.provenance import inherited, record_of
from vlv.training.samples.distillation import DistillationDraws
from vlv.training.samples.encoding import ImageSamples
from vlv.training.samples.held_out import HeldOut
from vlv.training.samples.pseudo_captions import PseudoCaptionStore
from vlv.training.samples.texts import Texts, TextsConfig, open_texts
from vlv.training.samples.tokens import CaptionTokens
from vlv.training.stage import Stage
from vlv.training.stages.common import draw_settings, loss_weighting, warn_of_unread_model
from vlv.training.stages.encoding import (
    EncoderStageConfig,
    fresh_encoder,
    open_images,
    prepare,
    query_drop,
    save_memory,
    use_latents,
)
from vlv.training.starts import DRAWING, Starts, components_of
from vlv.training.trainable_parameters import ENCODER_GROUPS, ParameterGroup

logger = logging.getLogger(__name__)

NAME = "stage2"


class Stage2Config(EncoderStageConfig):
    """`stage1` is that run's folder; `encoder`, a model folder, gives the encoder in place of that
    one's, for the same decoder. `language_model` is the folder of a causal language model, in
    front of which a fresh psi is trained; `caption_decoder` in its place is a caption decoder, psi
    included, that is trained further.

    Two settings are for comparison. `fresh_encoder` leaves stage 1 out: the encoder is fresh,
    with the sizes in `model`. `captions_from: z` leaves the text tower out: psi reads z.

    `trainable` names parts: vision (the vision tower), encoder (the paper's E: projection,
    transformer, queries and phi) or some of its four, psi, language_model. `denoising_weight`
    counts only where something of the encoder or the vision tower trains. A caption of more than
    `max_tokens` tokens, its end among them, is cut.

    `distillation_weight` is that of distillation from captions, beside the denoising loss: z learns
    to make the frozen decoder continue its own guesses as it does under the picture's caption (see
    `vlv.training.objectives.distillation`). The text encoder cuts captions that it cannot read
    whole.

    `pseudo_captions` is a file that self-training writes: its pictures of `data` are learned from
    with its captions, of which those of pairs are repeated until they are about `pair_share` of
    all.

    `texts` are captions without pictures (see `TextsConfig`). At a share `text_share` of the
    samples the caption decoder reads what the text tower makes of such a text, and learns to write
    it; the picture of the sample is reconstructed as always.
    """

    stage1: Path
    encoder: Path | None = None
    language_model: Path | None = None
    caption_decoder: Path | None = None
    fresh_encoder: bool = False
    captions_from: CaptionsFrom = "c"
    trainable: list[ParameterGroup] = Field(
        default=["vision", "encoder", "psi", "language_model"], min_length=1
    )
    denoising_weight: float = Field(1.0, ge=0)
    distillation_weight: float = Field(0.0, ge=0)
    max_tokens: int = Field(96, gt=0)
    pseudo_captions: Path | None = None
    pair_share: float | None = Field(None, ge=0, lt=1)
    texts: list[TextsConfig] = []
    text_share: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_origin(self) -> "Stage2Config":
        if (self.language_model is None) == (self.caption_decoder is None):
            raise ValueError("set either language_model or caption_decoder")
        if self.fresh_encoder and self.encoder is not None:
            raise ValueError("fresh_encoder leaves out any encoder: do not set one beside it")
        return self

    @model_validator(mode="after")
    def _share_needs_pseudo_captions(self) -> "Stage2Config":
        if self.pair_share is not None and self.pseudo_captions is None:
            raise ValueError("pair_share needs pseudo_captions: the file of self-training")
        return self

    @model_validator(mode="after")
    def _share_needs_texts(self) -> "Stage2Config":
        if (self.text_share is None) == bool(self.texts):
            raise ValueError("texts and text_share belong together: set both or neither")
        if self.texts and self.captions_from == "z":
            raise ValueError("texts need captions_from: c, since a text has no embeddings z")
        return self

    @model_validator(mode="after")
    def _distillation_needs_denoising(self) -> "Stage2Config":
        if self.distillation_weight and not self.denoises:
            raise ValueError(
                "distillation_weight needs the denoising loss beside it, and something of the "
                "encoder or the vision tower that trains: set distillation_weight: 0, or "
                "denoising_weight above 0 and another trainable"
            )
        return self

    @property
    def trained(self) -> Sequence[str]:
        """Names of what trains."""
        return self.trainable

    @property
    def denoises(self) -> bool:
        """Whether the denoising loss is part of the objective."""
        return bool(ENCODER_GROUPS & set(self.trainable)) and self.denoising_weight > 0

    @property
    def distils(self) -> bool:
        """Whether distillation from captions is part of the objective."""
        return self.distillation_weight > 0


def build(config: Stage2Config) -> Stage:
    """The stage with its boxes and its pictures."""
    if not config.fresh_encoder:
        warn_of_unread_model(config, config.stage1)
    boxes = open_boxes(config)
    if config.denoises and boxes.decoder is None:
        raise ConfigError(
            "the denoising loss is on, and the model that the stage starts from has no "
            "diffusion decoder; set denoising_weight: 0, or name a model with one"
        )
    store, held_out = open_images(
        config,
        boxes.image_size,
        captioned=config.pseudo_captions is None,
        denoises=config.denoises,
    )
    use_latents(boxes, store, config)
    objective = make_objective(config, boxes, held_out)
    prepare(objective, store, config)
    _warn_of_cut_captions(objective, held_out, config)
    if config.pseudo_captions is not None:
        store = PseudoCaptionStore(store, config.pseudo_captions, config.pair_share or 0)
    draws = None
    if config.denoises:
        assert boxes.decoder is not None  # checked above
        draws = draw_settings(config, boxes.decoder)
    distillation = None
    if config.distils:
        prompts = objective.text_tower.prompt_tokens
        assert boxes.decoder is not None  # checked above
        distillation = DistillationDraws(boxes.decoder.latent_shape, config.seed, prompts)
    tokens = CaptionTokens(objective.caption_decoder.tokenizer, config.max_tokens)
    drop = query_drop(config, objective)
    samples = ImageSamples(
        store,
        config.seed,
        draws=draws,
        tokens=tokens,
        query_drop=drop,
        texts=_texts(config, objective),
        distillation=distillation,
    )
    return Stage(NAME, config, objective, samples, boxes.before, boxes.starts)


def _warn_of_cut_captions(
    objective: Stage2Objective, held_out: HeldOut, config: Stage2Config
) -> None:
    """What is held out shows how long captions are."""
    captions = held_out.captions(range(len(held_out)))
    _, lengths = objective.caption_decoder.tokenise(captions)
    most = config.max_tokens
    if cut := int((lengths > most).sum()):
        logger.warning(
            "%d of the %d held-out captions have more than max_tokens (%d) tokens, up to %d: such "
            "captions are cut, and do not teach where a caption ends; raise max_tokens",
            *(cut, len(captions), most, int(lengths.max())),
        )
    prompts = objective.text_tower.prompt_tokens
    if config.distils and (cut := sum(not any(prompts.read_whole(text)) for text in captions)):
        logger.warning(
            "%d of the %d held-out captions are longer than the text encoder reads (%d tokens): "
            "distillation does not teach what their ends tell",
            *(cut, len(captions), max(prompts.room)),
        )


def _texts(config: Stage2Config, objective: Stage2Objective) -> Texts | None:
    if config.text_share is None:
        return None
    prompts = objective.text_tower.prompt_tokens
    return open_texts(config.texts, config.text_share, config.seed, prompts)


def make_objective(
    config: Stage2Config, boxes: StageBoxes, held_out: HeldOut | None = None
) -> Stage2Objective:
    """The objective on given boxes."""
    objective = Stage2Objective(
        boxes,
        config.trainable,
        held_out,
        denoising_weight=config.denoising_weight if config.denoises else 0.0,
        distillation_weight=config.distillation_weight,
        max_tokens=config.max_tokens,
        captions_from=config.captions_from,
    )
    objective.weighting = loss_weighting(config)
    fresh = ("caption_decoder.psi.", *(("encoder.",) if config.fresh_encoder else ()))
    save_memory(objective, config, fresh, lambda: open_boxes(config))
    return objective


def open_boxes(config: Stage2Config) -> StageBoxes:
    """The boxes as the stage starts from them."""
    model = open_model("stage1", config.stage1)
    tower = model.text_tower
    decoder = model.decoder if has_decoder(model) else None
    encoder, encoder_start = _encoder(config, model)
    width = tower.width if config.captions_from == "z" else tower.conditioning_width
    caption_decoder, before, caption_start = _caption_decoder(config, width)
    drawing = components_of(model, DRAWING)
    return StageBoxes(
        encoder=encoder,
        text_tower=tower,
        decoder=decoder,
        caption_decoder=caption_decoder,
        image_size=model.manifest.config.decoder_image_size,
        provenance=inherited(model.provenance),
        before=before,
        starts={
            **encoder_start,
            "stage1": {**encoder_start.get("stage1", {}), **drawing},
            **caption_start,
        },
    )


def _encoder(config: Stage2Config, model: VLVModel) -> tuple[VLVEncoder, Starts]:
    """The encoder, and what it was read from."""
    if config.fresh_encoder:
        return fresh_encoder(config, model.text_tower), {}
    if config.encoder is not None:
        folder = component_folder(config.encoder, "encoder")
        return load_encoder(folder), {"encoder": {"encoder": folder}}
    return model.encoder, {"stage1": components_of(model, ["encoder"])}


def _caption_decoder(
    config: Stage2Config, width: int
) -> tuple[CaptionDecoder, dict[str, Any] | None, Starts]:
    """The caption decoder for what it reads, of `width`, the record of the run that made it, and
    what it was read from.
    """
    if config.caption_decoder is not None:
        folder = component_folder(config.caption_decoder, "caption_decoder")
        starts = {"caption_decoder": {"caption_decoder": folder}}
        return load_caption_decoder(folder), record_of(folder.parent, NAME), starts
    assert config.language_model is not None  # the config's own check
    folder = language_model_folder(config.language_model)
    lm, tokenizer = load_language_model(folder)
    starts = {"language_model": {"language_model": folder}}
    return CaptionDecoder(lm, tokenizer, width), None, starts
