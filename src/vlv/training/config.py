"""The settings of a training run: YAML file + `key=value` overrides -> a checked object.

Field names are those of diffusers' training scripts. Every stage adds its own fields in its own
module; an unknown key is an error that names the nearest known one.
"""

import difflib
import logging
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import to_jsonable_python

from vlv.errors import ConfigError
from vlv.models.precision import Precision
from vlv.training.old_names import FIELDS, current_fields, old_fields
from vlv.yaml_files import parse_yaml
from vlv.yaml_files import read_yaml as read_yaml_file

logger = logging.getLogger(__name__)


class WorldDataConfig(BaseModel):
    """Which scenes of the embedded world a run sees.

    A new caption is written whenever a scene is seen; with `one_caption` each scene keeps one, as
    in a set of `count` pairs.
    """

    model_config = ConfigDict(extra="forbid")

    folder: Path = Path("runs/world")
    count: int = Field(49152, gt=0)
    split: str = "train"
    first_seed: int = Field(0, ge=0)
    workers: int = Field(2, gt=0)
    one_caption: bool = False


class ImageSetConfig(BaseModel):
    """Which images on disk a run sees, instead of the embedded world: for stages 1 and 2.

    `set` is a folder of images, of WebDataset shards or of parquet files, or one such file; shards
    and parquet files may be in an object store (a URL), and a pattern of braces or `*` names
    several. `format` says which, where the files do not. Held out are the first `validation_count`
    samples of `validation_set`, or, without one, the last of the set, which then does not train on
    them. `index_folder` keeps the places of samples in shards.

    Of a picture with several captions (a caption file of several lines) one is drawn each time that
    it is seen; with `join_captions` all lines are one caption.

    `latents` is a folder that `vlv data latents` made of `set`; then the VAE runs in no step.

    In data order 3, `streams` parts of the set are read side by side, and the samples of each are
    shuffled in blocks of `shuffle_buffer`.
    """

    model_config = ConfigDict(extra="forbid")

    set: Path
    format: Literal["folder", "webdataset", "parquet"] | None = None
    validation_set: Path | None = None
    index_folder: Path = Path("runs/indexes")
    join_captions: bool | None = None
    latents: Path | None = None
    streams: int | None = Field(None, gt=0)
    shuffle_buffer: int | None = Field(None, gt=0)


_DATA_KINDS: dict[str, type[BaseModel]] = {"world": WorldDataConfig, "set": ImageSetConfig}


def _kind_of_data(data: Any) -> str:
    on_disk = "set" in data if isinstance(data, dict) else isinstance(data, ImageSetConfig)
    return "set" if on_disk else "world"


DataConfig = Annotated[
    Annotated[WorldDataConfig, Tag("world")] | Annotated[ImageSetConfig, Tag("set")],
    Discriminator(_kind_of_data),
]


# diffusers' schedules that follow from the number of steps alone.
Schedule = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
]
_POLYNOMIAL_END = 1e-7


class TrainingConfig(BaseModel):
    """Fields that every stage shares. Sizes are per process; steps are optimizer steps.

    `keep_best` names a metric of validation: the exported weights are those of the step that was
    validated with its least value, not the last ones. With `patience` the run ends after so many
    validations in a row without a new least value. `validation_picture` draws a picture at each.

    `price_per_gpu_hour` is in USD; a process stands for a GPU. After the step in which
    `max_cost_usd` or `max_hours` is reached, the run writes a checkpoint and ends.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    output_dir: Path
    seed: int = Field(0, ge=0, lt=2**63)
    model: Path | None = None
    data: DataConfig = WorldDataConfig()
    validation_count: int = Field(256, gt=0)

    max_train_steps: int = Field(gt=0)
    train_batch_size: int = Field(gt=0)
    gradient_accumulation_steps: int = Field(1, gt=0)
    learning_rate: float = Field(gt=0)
    lr_scheduler: Schedule = "cosine"
    lr_warmup_steps: int = Field(0, ge=0)
    lr_num_cycles: int = Field(1, gt=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.99, ge=0, lt=1)
    adam_weight_decay: float = Field(0.01, ge=0)
    adam_epsilon: float = Field(1e-8, gt=0)
    weight_decay_on: Literal["all", "matrices"] = "all"
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    max_grad_norm: float = Field(1.0, gt=0)
    mixed_precision: Precision = "no"
    sharding: Literal["none", "fsdp", "hybrid"] = "none"
    compile: bool = False
    use_ema: bool = False
    ema_decay: float = Field(0.999, ge=0, le=1)

    checkpointing_steps: int = Field(500, gt=0)
    checkpoints_total_limit: int = Field(2, gt=0)
    resume_from_checkpoint: str | None = "latest"
    validation_steps: int = Field(500, gt=0)
    validation_picture: bool = True
    keep_best: str | None = None
    patience: int | None = Field(None, gt=0)
    logging_steps: int = Field(20, gt=0)
    price_per_gpu_hour: float | None = Field(None, gt=0)
    max_cost_usd: float | None = Field(None, gt=0)
    max_hours: float | None = Field(None, gt=0)
    report_to: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    num_threads: int | None = Field(None, ge=1)
    dataloader_num_workers: int = Field(0, ge=0)
    data_order: Literal[1, 2, 3] | None = None
    hang_seconds: float = Field(300.0, gt=0)
    dataloader_prefetch_factor: int = Field(2, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, data: Any) -> Any:
        return current_fields(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _patience_needs_a_figure(self) -> "TrainingConfig":
        if self.patience is not None and self.keep_best is None:
            raise ValueError("patience needs keep_best: the metric that has to get better")
        return self

    @model_validator(mode="after")
    def _no_field_is_ignored(self) -> "TrainingConfig":
        if self.lr_scheduler == "constant" and self.lr_warmup_steps:
            raise ValueError(
                "lr_scheduler: constant has no warmup: set constant_with_warmup, or "
                "lr_warmup_steps: 0"
            )
        if self.lr_scheduler == "polynomial" and self.learning_rate <= _POLYNOMIAL_END:
            raise ValueError(
                f"lr_scheduler: polynomial ends at {_POLYNOMIAL_END:g}: set a larger "
                "learning_rate, or another schedule"
            )
        if self.lr_num_cycles > 1 and self.lr_scheduler != "cosine_with_restarts":
            raise ValueError("lr_num_cycles needs lr_scheduler: cosine_with_restarts")
        if self.ema_decay != type(self).model_fields["ema_decay"].default and not self.use_ema:
            raise ValueError("ema_decay needs use_ema: set it to true, or leave ema_decay out")
        return self

    @model_validator(mode="after")
    def _moments_of_8_bits_are_whole(self) -> "TrainingConfig":
        if self.optimizer == "adamw8bit" and self.sharding != "none":
            raise ValueError(
                "optimizer: adamw8bit takes no parameters that are spread over processes: set "
                "sharding: none, or optimizer: adamw"
            )
        return self

    @model_validator(mode="after")
    def _money_needs_a_price(self) -> "TrainingConfig":
        if self.max_cost_usd is not None and self.price_per_gpu_hour is None:
            raise ValueError("max_cost_usd needs price_per_gpu_hour")
        return self

    def rates_of_parts(self) -> dict[str, float]:
        """Learning rates of parts that have their own, in stages that have parts."""
        return {}


# What may change between a run and its continuation without making it another run.
CHANGEABLE_ON_RESUME = frozenset(
    {
        "output_dir",
        "model",
        "max_train_steps",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "resume_from_checkpoint",
        "validation_steps",
        "validation_count",
        "validation_picture",
        "logging_steps",
        "price_per_gpu_hour",
        "max_cost_usd",
        "max_hours",
        "patience",
        "report_to",
        "num_threads",
        "dataloader_num_workers",
        "sharding",
        # A checkpoint says its own (see `order_of_run`).
        "data_order",
        "hang_seconds",
        "dataloader_prefetch_factor",
        "compile",
        "gradient_checkpointing",
        # These two may change together with the number of processes; their product may not.
        "train_batch_size",
        "gradient_accumulation_steps",
    }
)


# What may change besides, by intention, where `resume_from_checkpoint` names a checkpoint: "latest"
# would also go on with a run in whose folder another one was meant to begin.
CHANGEABLE_AT_NAMED_CHECKPOINT = frozenset(
    {
        "learning_rate",
        "learning_rates",
        "lr_scheduler",
        "lr_warmup_steps",
        "lr_num_cycles",
        "max_grad_norm",
        "mixed_precision",
        "frozen_dtype",
    }
)


def differing_fields(saved: dict[str, Any], config: BaseModel) -> list[str]:
    """Names of the fields in which `saved`, a config as JSON, is another run than `config`.

    A field that is newer than `saved` was at its default then; None counts as missing.
    """
    before, now = _identity(current_fields(saved)), _identity(config.model_dump(mode="json"))
    for name, field in type(config).model_fields.items():
        if name in now and name not in before and not field.is_required():
            before[name] = to_jsonable_python(field.get_default(call_default_factory=True))
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """The fields that identify a run. Where scenes and images are kept and how many processes draw
    them are not among them: of images on disk, the run keeps a fingerprint beside its config.
    """
    kept = {name: value for name, value in config.items() if name not in CHANGEABLE_ON_RESUME}
    if "data" in kept:
        kept["data"] = {
            name: value
            for name, value in kept["data"].items()
            if name not in _WHERE_DATA_ARE and value is not None
        }
    return kept


_WHERE_DATA_ARE = (
    "folder",
    "workers",
    "set",
    "format",
    "validation_set",
    "index_folder",
    "latents",
)


Config = TypeVar("Config", bound=BaseModel)


def load_config(
    kind: type[Config], path: Path | None, overrides: list[str] | None = None
) -> Config:
    """Read `path`, if there is one, apply `key=value` overrides, and check; dots descend, as in
    `data.count=100`.

    Raises:
        ConfigError: unreadable file, malformed override, unknown key or impossible value.
    """
    data = {} if path is None else read_yaml(path)
    if path is not None and issubclass(kind, TrainingConfig) and data.get("model") is not None:
        # A config names its model file as seen from its own folder, wherever it is run from.
        data["model"] = path.parent / str(data["model"])
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"override {override!r} is not of the form key=value")
        target = data
        *parents, leaf = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"override {override!r}: {parent!r} has no fields of its own")
        target[leaf] = parse_yaml(value, f"override {override!r}", ConfigError)
    for name in old_fields(data):
        logger.warning("%s is deprecated: the field is now called %s", name, FIELDS[name])
    return check_config(kind, data, "on the command line" if path is None else str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, or a ConfigError that names the file."""
    data = read_yaml_file(path, f"config {path}", ConfigError)
    if not isinstance(data, dict):
        raise ConfigError(f"config {path} must hold a mapping of keys to values")
    if strange := [key for key in data if not isinstance(key, str)]:
        raise ConfigError(f"config {path}: the key {strange[0]!r} is no text")
    return data


def check_config(kind: type[Config], data: dict[str, Any], where: str) -> Config:
    """`data` as an object of `kind`; every fault is named in one ConfigError."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        faults = [_describe(kind, fault["loc"], fault) for fault in error.errors()]
        raise ConfigError(f"config {where}: " + "; ".join(faults)) from error


def _describe(kind: type[BaseModel], location: tuple[int | str, ...], fault: Any) -> str:
    if location[:1] == ("data",) and len(location) > 1 and location[1] in _DATA_KINDS:
        # pydantic names the kind of data that it recognised, as if that were a field.
        known = list(_DATA_KINDS[str(location[1])].model_fields)
        location = ("data", *location[2:])
    else:
        known = _fields_at(kind, location[:-1])
    key = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(sorted(known))})"
        return f"unknown key {key}{hint}"
    said = str(fault["msg"]).removeprefix("Value error, ")
    return f"{key}: {said}" if key else said


def _fields_at(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        annotation = kind.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)
