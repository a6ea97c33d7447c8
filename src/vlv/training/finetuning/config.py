"""What a user says of a fine-tune, and the config of the run that follows from it."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from vlv.checkpoints.parts import RUN_FOLDER, BitsAndBytes
from vlv.errors import ConfigError
from vlv.text import counted
from vlv.training.config import ImageSetConfig, TrainingConfig

Method = Literal["lora", "full"]
ViewOfPictures = Literal["whole", "crop"]
# Of a LoRA with psi, and of the whole caption decoder.
LEARNING_RATES: dict[Method, float] = {"lora": 5e-4, "full": 1e-4}
# Beside a LoRA, psi learns at this share of the rate: the base's facts go through it, and at
# the LoRA's rate a small set makes it forget them.
PSI_SHARE = 0.03
# Rows of word pieces that the base has not learned have to go far, and nothing known depends on
# them: at the LoRA's rate, the mini wrote "Reeee" for "Rendered".
WORD_PIECES = "word_pieces"
_WORD_PIECES_FACTOR = 4.0
# A small set is seen more often: about so many pictures are looked at in a run by default.
_LOOKS, _LEAST_EPOCHS, _MOST_EPOCHS = 1024, 3, 20
# From so many held-out pictures on their loss says which step was the best one.
_ENOUGH = 16
# Validations and checkpoints of a run, of which one never is further apart than `_CHECKPOINTING`.
_VALIDATIONS, _CHECKPOINTING = 10, 200


@dataclass(frozen=True)
class Shape:
    """What of a run the memory depends on. half: frozen weights and computation in bfloat16."""

    lora_rank: int | None
    """None: the caption decoder trains in full."""
    quantization: BitsAndBytes | None
    half: bool
    kept: bool
    """Whether conditionings are kept, so that the encoder has gone before training begins."""
    max_tokens: int
    micro_batch: int
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class FinetuneSettings:
    """What a user says; None where a default depends on the pictures or the method.

    validation: a number of held-out pictures, or a share of all such as "5%".
    """

    model: str
    images: Path
    out: Path
    revision: str | None = None
    base_models: dict[str, str] = field(default_factory=dict)
    lora_rank: int = 16
    full: bool = False
    quantization: BitsAndBytes | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int = 8
    view: ViewOfPictures = "whole"
    first_line: bool = False
    caption_dropout: float = 0.0
    trigger: str = ""
    validation: str = "5%"
    seed: int = 0
    cache: bool = True

    def __post_init__(self) -> None:
        if self.full and self.quantization is not None:
            raise ConfigError(
                "a quantized language model cannot be trained in full; leave out --full or "
                "--quantization"
            )
        held_out_count(self.validation, sys.maxsize)

    @property
    def method(self) -> Method:
        """What of the caption decoder trains: a LoRA and psi, or all of it."""
        return "full" if self.full else "lora"

    @property
    def rate(self) -> float:
        """The learning rate."""
        return LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    @property
    def run_folder(self) -> Path:
        """Where the run keeps what only it needs."""
        return self.out / RUN_FOLDER


def held_out_count(wish: str, pictures: int) -> int:
    """How many of `pictures` a wish such as "5%" or "8" holds out; a share gives at least one of
    ten or more, and leaves one to learn from.

    Raises ConfigError for anything else, and for a number that leaves none.
    """
    text = wish.strip()
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if share == 1:
                raise ConfigError(f"--validation {text} leaves no picture to train on")
            if not 0 <= share < 1:
                raise ValueError
            count = round(share * pictures)
            count = max(count, 1) if share > 0 and pictures >= 10 else count
        else:
            count = int(text)
    except ValueError as error:
        raise ConfigError(
            f"--validation is a number of pictures or a share such as 5%, not {wish!r}"
        ) from error
    if count < 0:
        raise ConfigError(f"--validation is not less than 0, but it is {wish!r}")
    if count >= pictures and not text.endswith("%"):
        raise ConfigError(
            f"--validation {text} leaves no picture to train on, of "
            f"{counted(pictures, 'picture')} with captions"
        )
    return min(count, pictures - 1)


def default_epochs(pictures: int) -> int:
    """So many that small sets are seen often enough, and large ones not too long."""
    return min(max(math.ceil(_LOOKS / pictures), _LEAST_EPOCHS), _MOST_EPOCHS)


class FinetuneConfig(TrainingConfig):
    """The config of the run: beside the fields of every run, what makes it this fine-tune."""

    base: str
    base_sha256: str
    method: Method
    lora_rank: int = Field(16, ge=1, le=4096)
    quantization: BitsAndBytes | None = None
    crop_size: int | None = None
    first_line: bool = False
    caption_dropout: float = Field(0.0, ge=0, lt=1)
    trigger: str = ""
    max_tokens: int = Field(gt=0)
    pictures: str = ""
    gradient_checkpointing: bool = False

    def rates_of_parts(self) -> dict[str, float]:
        """Beside a LoRA, those of psi and of rows of word pieces."""
        if self.method == "full":
            return {}
        return {
            "psi": PSI_SHARE * self.learning_rate,
            WORD_PIECES: _WORD_PIECES_FACTOR * self.learning_rate,
        }


def run_config(
    settings: FinetuneSettings,
    *,
    base_sha256: str,
    crop_size: int | None,
    learned: int,
    held_out: int,
    shape: Shape,
    pictures: str,
) -> FinetuneConfig:
    """The run of `learned` pictures; the micro-batch of `shape` divides the batch. pictures: their
    fingerprint.
    """
    epochs = default_epochs(learned) if settings.epochs is None else settings.epochs
    batch = min(settings.batch_size, learned)
    an_epoch = math.ceil(learned / batch)
    steps = math.ceil(epochs * learned / batch)
    validation = max(an_epoch, math.ceil(steps / _VALIDATIONS))
    return FinetuneConfig(
        output_dir=settings.run_folder,
        seed=settings.seed,
        data=ImageSetConfig(set=settings.images),
        max_train_steps=steps,
        train_batch_size=shape.micro_batch,
        gradient_accumulation_steps=batch // shape.micro_batch,
        learning_rate=settings.rate,
        lr_warmup_steps=min(steps // 10, 100),
        adam_weight_decay=0.0,
        mixed_precision="bf16" if shape.half else "no",
        checkpointing_steps=min(validation, _CHECKPOINTING),
        checkpoints_total_limit=1,
        validation_steps=validation,
        validation_picture=False,
        validation_count=max(held_out, 1),
        keep_best="caption_loss" if held_out >= _ENOUGH else None,
        logging_steps=max(1, min(20, an_epoch)),
        report_to="none",
        base=settings.model,
        base_sha256=base_sha256,
        method=settings.method,
        lora_rank=settings.lora_rank,
        quantization=settings.quantization,
        crop_size=crop_size,
        first_line=settings.first_line,
        caption_dropout=settings.caption_dropout,
        trigger=settings.trigger,
        max_tokens=shape.max_tokens,
        pictures=pictures,
        gradient_checkpointing=shape.gradient_checkpointing,
    )
