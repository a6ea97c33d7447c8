"""A file of preferences, made by a model, with the record of how it was made: what
`vlv data preferences` writes and the stage `preferences` learns from.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlv.checkpoints.adapters import captioner_hash
from vlv.checkpoints.opening import load_model
from vlv.errors import ConfigError
from vlv.models.vlv import VLVModel
from vlv.training.accelerator import computing_device, forget_accelerator
from vlv.training.batched_lines import write_lines
from vlv.training.config import DataConfig, WorldDataConfig
from vlv.training.kept_config import keep_config, require_same, write_json
from vlv.training.model_names import has_decoder, model_folder
from vlv.training.preference_making import Alternatives, PreferenceMaker, PreferenceSettings
from vlv.training.provenance import RECORD, START_HASH
from vlv.training.run_folder import append_metrics, drop_metrics_after, run_lock, sum_of_metrics
from vlv.training.samples.images import ImageStore, WorldStore, open_image_sets
from vlv.training.samples.preferences import JudgedCaption, read_preferences
from vlv.training.samples.world import require_size_of_world, scenes_of, world_images

logger = logging.getLogger(__name__)

NAME = "preference-data"
FILE = "preferences.jsonl"
# Fields that may be others when a command goes on.
_CHANGEABLE = {"num_threads"}
# Pictures that are captioned at once, and written together.
_BATCH = 16
# Other pictures whose readings show what might have been written.
_REFERENCES = 4


class PreferenceDataConfig(BaseModel):
    """`start` is a model folder with encoder, decoder and a caption decoder that learned from
    pairs: the first `pairs` samples of `data`, whose captions are written into the file as they
    are. Captions of the others are never read. Of `images` of these the model samples a caption at
    a `temperature`, and words of it are exchanged for up to `per_word` others that the model finds
    at least `least_log_odds` nats likelier (a negative number: less likely). The decoder judges at
    `levels` of noise, shares of the trained timesteps, with `repeats` draws at each. In the
    embedded world, where the truth judges too, there may be no levels: then the decoder is not
    asked. For comparison, `alternatives: truth` lets the world name the other words.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    output_dir: Path
    start: Path
    data: DataConfig = WorldDataConfig()
    validation_count: int = Field(256, gt=0)
    seed: int = Field(0, ge=0, lt=2**63)
    pairs: int = Field(ge=0)
    images: int = Field(1000, gt=0)
    temperature: float = Field(1.0, gt=0)
    alternatives: Alternatives = "model"
    per_word: int = Field(1, ge=1)
    least_log_odds: float = -4.0
    levels: list[float] = [0.2]
    repeats: int = Field(2, ge=1)
    max_tokens: int = Field(96, gt=0)
    num_threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _fields_agree(self) -> "PreferenceDataConfig":
        if self.alternatives == "truth" and not isinstance(self.data, WorldDataConfig):
            raise ValueError("alternatives: truth needs the embedded world, whose truth is known")
        if not all(0 < level <= 1 for level in self.levels):
            raise ValueError("levels of noise are above 0 and at most 1")
        if not self.levels and not isinstance(self.data, WorldDataConfig):
            raise ValueError("levels: [] asks the truth alone, which the embedded world knows")
        return self


def make_preferences(config: PreferenceDataConfig) -> Path:
    """The folder with the file and its record `run.json`. A command that was cut off goes on with
    the pictures that it was at, to the same file.

    Raises:
        ConfigError: `output_dir` holds what another config or another start made, no picture is
            without pair, or `start` has no decoder.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    final = config.output_dir / "final"
    with run_lock(config.output_dir):
        require_same(config, _CHANGEABLE)
        if not (final / RECORD).is_file():
            _make(config, final)
    return final


def _make(config: PreferenceDataConfig, final: Path) -> None:
    folder = model_folder(config.start)
    start_hash = captioner_hash(folder)
    require_same(config, _CHANGEABLE, start_hash)
    model = load_model(folder, device=computing_device())
    forget_accelerator()
    if config.levels and not has_decoder(model):
        raise ConfigError(
            f"the decoder judges words, and {config.start} has none; name a model that has one"
        )
    store = _open_store(config, model)
    if config.pairs + config.images > len(store):
        raise ConfigError(
            f"data has {len(store)} samples, too few for {config.pairs} pairs and {config.images} "
            "images; lower one of them"
        )
    final.mkdir(parents=True, exist_ok=True)
    keep_config(config, start_hash)
    maker = _maker(config, model, store)
    write_lines(
        final / FILE, maker.wanted(), maker.captions, _BATCH, _CPUSeconds(config.output_dir)
    )
    captions = read_preferences(final / FILE)
    metrics = preference_metrics(captions)
    metrics["cpu_seconds"] = sum_of_metrics(config.output_dir, "cpu_seconds")
    logger.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    write_json(
        final / RECORD,
        {
            "stage": NAME,
            "config": config.model_dump(mode="json"),
            START_HASH: start_hash,
            "steps": len(captions),
            "validation": metrics,
        },
    )


def _open_store(config: PreferenceDataConfig, model: VLVModel) -> ImageStore:
    image_size = model.manifest.config.decoder_image_size
    if isinstance(config.data, WorldDataConfig):
        require_size_of_world(image_size)
        return WorldStore(world_images(config.data), one_caption=True)
    store, _ = open_image_sets(
        config.data,
        image_size,
        validation_count=config.validation_count,
        batch_size=_BATCH,
        captioned=False,
    )
    return store


def _maker(config: PreferenceDataConfig, model: VLVModel, store: ImageStore) -> PreferenceMaker:
    settings = PreferenceSettings(
        pairs=config.pairs,
        images=config.images,
        temperature=config.temperature,
        alternatives=config.alternatives,
        per_word=config.per_word,
        least_log_odds=config.least_log_odds,
        levels=tuple(config.levels),
        repeats=config.repeats,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )
    count = min(_REFERENCES, len(store))
    pictures = [store.view(index).item["image"].numpy() for index in range(count)]
    others = model.read(model.encode([Image.fromarray(one) for one in pictures]))
    return PreferenceMaker(model, store, settings, others, scenes_of(config.data))


class _CPUSeconds:
    """Adds the CPU seconds of each batch to the metrics log of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun = False

    def __call__(self, lines: int, seconds: float) -> None:
        if not self._begun:
            # Batches that a killed process did not complete are made again.
            drop_metrics_after(self._folder, lines - 1)
            self._begun = True
        append_metrics(self._folder, {"step": lines, "cpu_seconds": seconds})


def preference_metrics(captions: Sequence[JudgedCaption]) -> dict[str, float]:
    """What to watch. exchanges: a judged caption. preferred: the share of exchanges that the
    decoder prefers. In the embedded world, decidable: the share that changes how many claims are
    true; better: of these, those that make more true; agreement: of these, those of which the
    decoder says the same.
    """
    judged = [one for one in captions if one.caption and not one.pair]
    exchanges = [exchange for one in judged for exchange in one.exchanges]
    asked = [one for one in exchanges if one.gains]
    decidable = [one for one in exchanges if one.truth]
    metrics = {
        "pairs": sum(one.pair and bool(one.caption) for one in captions),
        "images": len(judged),
        "refused": sum(not one.caption for one in captions),
        "exchanges": len(exchanges) / max(len(judged), 1),
    }
    if asked:
        metrics["preferred"] = fmean(one.gain > 0 for one in asked)
    if decidable:
        metrics["decidable"] = len(decidable) / len(exchanges)
        metrics["better"] = fmean((one.truth or 0) > 0 for one in decidable)
    if both := [one for one in decidable if one.gains]:
        metrics["agreement"] = fmean((one.gain > 0) == ((one.truth or 0) > 0) for one in both)
    return metrics
