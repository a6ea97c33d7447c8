"""Self-training: a caption decoder learns from pseudo-captions, captions of its own that the frozen
diffusion decoder supports.

Rounds of two steps each. The model samples captions of pictures that have none and keeps of each
the one under which the decoder denoises the picture best. Then stage 2 trains psi and the language
model alone on what was kept, beside the pairs that it has, so that the z that they read stays the
one that stage 1 learned.
"""

import logging
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vlv.checkpoints.adapters import captioner_hash
from vlv.checkpoints.manifest import new_model_folder
from vlv.checkpoints.opening import load_model
from vlv.errors import ConfigError
from vlv.files import second_name
from vlv.training.accelerator import computing_device, forget_accelerator
from vlv.training.automatic_checkpointing import settled_here
from vlv.training.config import DataConfig, WorldDataConfig, check_config
from vlv.training.kept_config import keep_config, require_same, write_json
from vlv.training.loop import train
from vlv.training.model_names import has_decoder, model_folder
from vlv.training.old_names import current_fields, old_pseudo_captions
from vlv.training.processes import require_one_process
from vlv.training.pseudo_captioning import (
    PseudoCaptioner,
    PseudoCaptionSettings,
    pseudo_caption_metrics,
    write_pseudo_captions,
)
from vlv.training.run_folder import run_lock
from vlv.training.samples.pseudo_captions import read_pseudo_captions
from vlv.training.samples.world import scenes_of
from vlv.training.selection import Selector
from vlv.training.stages import stage2 as second_stage
from vlv.training.stages.encoding import open_images
from vlv.training.stages.stage2 import Stage2Config

logger = logging.getLogger(__name__)

RECORD = "self_training.json"
# Fields of stage 2 that rounds set themselves.
_OWN = {
    "output_dir",
    "stage1",
    "encoder",
    "fresh_encoder",
    "caption_decoder",
    "language_model",
    "data",
    "pseudo_captions",
    "pair_share",
}


class SelfTrainingConfig(BaseModel):
    """`start` is a model folder: encoder, decoder, and a caption decoder that learned from pairs.

    The first `pairs` samples of `data` have captions that are learned from; captions of the others
    are never read. In each of `rounds`, `samples` captions of `images` further pictures are drawn
    at a `temperature`, and the `selector` keeps one: decoder, or for comparison likelihood, random,
    picture (whose drawing by the decoder is most like the image), and in the world truth. Pairs are
    repeated in training until they are about `pair_share` of what is seen. `stage2` holds fields of
    that stage's config, the same for every round, its `max_train_steps` among them.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    output_dir: Path
    start: Path
    data: DataConfig = WorldDataConfig()
    seed: int = Field(0, ge=0, lt=2**63)
    pairs: int = Field(ge=0)
    rounds: int = Field(2, gt=0)
    images: int = Field(1000, gt=0)
    samples: int = Field(8, ge=2)
    temperature: float = Field(1.0, gt=0)
    selector: Selector = "decoder"
    pair_share: float = Field(0.25, ge=0, lt=1)
    stage2: dict[str, Any]
    report_to: Literal["tensorboard", "wandb", "none"] = "none"
    num_threads: int | None = Field(None, ge=1)

    @property
    def pictures(self) -> DataConfig:
        """`data`, each scene of the world with one caption, as in a set of pairs."""
        if isinstance(self.data, WorldDataConfig):
            return self.data.model_copy(update={"one_caption": True})
        return self.data

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, data: Any) -> Any:
        return current_fields(data) if isinstance(data, dict) else data

    @field_validator("stage2", mode="before")
    @classmethod
    def _current_names_of_stage2(cls, data: Any) -> Any:
        return current_fields(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _fields_agree(self) -> "SelfTrainingConfig":
        taken = sorted(_OWN & self.stage2.keys())
        if taken:
            raise ValueError(f"stage2 cannot set {', '.join(taken)}: every round sets them itself")
        if self.selector == "truth" and not isinstance(self.data, WorldDataConfig):
            raise ValueError("selector: truth needs the embedded world, whose truth is known")
        return self

    def round_config(self, number: int) -> Stage2Config:
        """Stage 2 of round `number`, from 0."""
        before = model_folder(self.start) if number == 0 else self.folder(number - 1) / "final"
        fields = {
            "trainable": ["psi", "language_model"],
            "seed": self.seed,
            "num_threads": self.num_threads,
            "report_to": self.report_to,
            **self.stage2,
            "output_dir": self.folder(number),
            "stage1": before,
            "caption_decoder": before / "caption_decoder",
            "data": self.pictures.model_dump(),
            "pseudo_captions": self.pseudo_captions(number),
            "pair_share": self.pair_share,
        }
        return check_config(Stage2Config, fields, f"stage2 of round {number + 1}")

    def folder(self, number: int) -> Path:
        """Where a round's run is kept."""
        return self.output_dir / f"round-{number + 1}"

    def pseudo_captions(self, number: int) -> Path:
        """The file of a round's captions."""
        begun = old_pseudo_captions(self.output_dir, number + 1)
        return begun or self.output_dir / f"pseudo-captions-{number + 1}.jsonl"


def self_train(config: SelfTrainingConfig) -> Path:
    """All rounds that are not done, each going on where it was cut off; returns the folder of the
    last round's model, with the metrics of every round's captions in `self_training.json`.

    Raises:
        ConfigError: `output_dir` holds a run of another config, of other images or of a start that
            has changed since; or no picture is without pair.
        TrainingError: as `train`.
        SystemExit(143): SIGTERM arrived in training; a checkpoint was written.
    """
    require_one_process("self-training")
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    with run_lock(config.output_dir):
        return _all_rounds(config)


def _all_rounds(config: SelfTrainingConfig) -> Path:
    require_same(config, {"rounds"}, captioner_hash(model_folder(config.start)))
    rounds = [_round(config, number) for number in range(config.rounds)]
    final = config.output_dir / "final"
    record = {"config": config.model_dump(mode="json"), "rounds": rounds}
    with new_model_folder(final) as folder:
        last = config.folder(config.rounds - 1) / "final"
        shutil.copytree(last, folder, dirs_exist_ok=True, copy_function=second_name)
        write_json(folder / RECORD, record)
    return final


def _round(config: SelfTrainingConfig, number: int) -> dict[str, float]:
    """Captions and training of a round; metrics of the captions."""
    stage2 = config.round_config(number)
    path = config.pseudo_captions(number)
    if not path.is_file():
        _caption(config, number, stage2)
    metrics = pseudo_caption_metrics(read_pseudo_captions(path))
    logger.info("round %d: %s", number + 1, ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
    if not (stage2.output_dir / "final" / "run.json").is_file():
        settled = settled_here(stage2)
        assert isinstance(settled, Stage2Config)  # it is `stage2` with one field decided
        train(second_stage.build(settled))
    return metrics


def _caption(config: SelfTrainingConfig, number: int, stage2: Stage2Config) -> None:
    """Let the model as it is before the round caption pictures for itself."""
    model = load_model(stage2.stage1, device=computing_device())
    forget_accelerator()
    if config.selector in ("decoder", "picture") and not has_decoder(model):
        raise ConfigError(
            f"selector: {config.selector} needs a diffusion decoder, and {config.start} has none; "
            "set selector: likelihood, or name a start that has one"
        )
    store, _ = open_images(
        stage2, model.manifest.config.decoder_image_size, captioned=False, denoises=False
    )
    if config.pairs >= len(store):
        raise ConfigError(
            f"data has {len(store)} samples and {config.pairs} of them are pairs: none is left "
            "for the model to caption"
        )
    settings = PseudoCaptionSettings(
        pairs=config.pairs,
        images=config.images,
        samples=config.samples,
        temperature=config.temperature,
        selector=config.selector,
        max_tokens=stage2.max_tokens,
        seed=config.seed,
        number=number,
    )
    keep_config(config, captioner_hash(model_folder(config.start)))
    captioner = PseudoCaptioner(model, store, settings, scenes_of(config.data))
    write_pseudo_captions(config.pseudo_captions(number), captioner)
