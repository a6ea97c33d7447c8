"""A job: what is captioned, how, and where to; its record on disk, which later runs must match.

Everything that a job remembers lies in the folder `.vlv-bulk` of its target:

    job.json        the settings and hashes of the plan: written last, when the plan is complete
    plan.jsonl      the shards
    names.jsonl     the images of a folder
    gone.jsonl      those of them that it no longer holds
    00000.jsonl     of a finished shard: a line for each image, its caption or why it has none
    00000.json      marks the shard as finished; how many images came to what, hashes of its files
    failed.jsonl    the lines of images without a caption, of all shards
    scratch/        unfinished work, of no use to anybody after a kill
"""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from vlv.data.images import MAX_OWN_PIXELS
from vlv.errors import ConfigError
from vlv.inference.batching import BatchSize
from vlv.inference.bulk.plan import Kind, kind_of
from vlv.inference.captioning import CaptionSettings

Format = Literal["jsonl", "txt", "folder", "parquet", "webdataset"]
FOLDER, RECORD, SCRATCH = ".vlv-bulk", "job.json", "scratch"
# Of a shard, unless the source comes in shards.
SHARD_SIZE = 1000
# Formats whose files can lie among the images of the source.
BESIDE: tuple[Format, ...] = ("jsonl", "txt")


@dataclass(frozen=True)
class Job:
    """What decides the result of a job; two jobs that are equal write the same captions.

    Args:
        source: a folder, .tar or .parquet files or a quoted pattern of them, or a saved dataset.
        target: the folder for the results; of `jsonl` and `txt` it may be the source.
        output_format: `jsonl` (one metadata.jsonl), `txt` (captions alone, in the source's tree),
            `folder` (images, captions beside them, metadata.jsonl), `parquet` or `webdataset`.
        model: as `open_model` takes it, like the four that follow it.
        captions: how captions are generated.
        batch_size: images at once; "auto" halves it where memory runs out.
        prepend: text before every caption.
        append: text after every caption.
        caption_extension: of the caption files of `txt` and `folder`.
        shard_size: images of a shard, where the source does not come in shards.
        max_pixels: larger images are refused; a job can go on with another number.
    """

    source: str
    target: Path
    output_format: Format
    model: str = "vlv-mini"
    revision: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    offload: bool = False
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    batch_size: BatchSize = "auto"
    prepend: str = ""
    append: str = ""
    caption_extension: str = ".txt"
    shard_size: int = SHARD_SIZE
    max_pixels: int = MAX_OWN_PIXELS

    def __post_init__(self) -> None:
        if self.batch_size == "auto" and self.captions.samples:
            raise ConfigError(
                "samples depend on the batch size, so that auto would make them depend on the "
                "memory that is free; give a number"
            )
        if self.shard_size < 1:
            raise ConfigError(f"the shard size is 1 or more, not {self.shard_size}")

    @property
    def folder(self) -> Path:
        """Where the job's own files lie."""
        return self.target / FOLDER

    @property
    def kind(self) -> Kind:
        """The layout of the source."""
        return kind_of(self.source)

    @property
    def has_caption_files(self) -> bool:
        """Whether each image has a caption file of its own."""
        return self.output_format in ("txt", "folder")

    @property
    def images_needed(self) -> bool:
        """Whether the results hold the images too."""
        return self.output_format not in BESIDE

    def settings(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""
        names = (one.name for one in fields(self) if one.name not in ("target", "max_pixels"))
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        own |= {"source": os.path.abspath(self.source), **asdict(own.pop("captions"))}
        # Rules of cleaning are functions; they go by their names.
        return dict(json.loads(json.dumps(own, default=lambda rule: rule.__name__)))


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Args:
        count: processes with a model each; None: one for each GPU, or one (on Ray, one for each
            machine of the cluster).
        device: of every worker; None: the GPUs in turn, or what else is there.
        decoders: processes of each worker that decode images.
        engine: `processes` of this machine, or the actors of a `ray` cluster.
        ray_address: of a cluster that runs; None: what RAY_ADDRESS says, or else one is started
            on this machine and ended with the job.
        silence: seconds after which a process is replaced that gives no sign of life, as one that
            was stopped; not on Ray.
        stall: seconds that a process may take to load the model, or for one batch; not on Ray.
    """

    count: int | None = None
    device: str | None = None
    decoders: int = 2
    engine: Literal["processes", "ray"] = "processes"
    ray_address: str | None = None
    silence: float = 60.0
    stall: float = 3600.0

    def __post_init__(self) -> None:
        if self.engine == "ray":
            if self.device is not None and ":" in self.device:
                raise ConfigError(
                    f"Ray says which GPU a worker has; give --device cuda, not {self.device}"
                )
        elif self.ray_address is not None:
            raise ConfigError("an address of a Ray cluster needs --engine ray")

    def devices(self) -> list[str | None]:
        """The device of each worker; None: the best there is."""
        gpus = torch.cuda.device_count() if self.device is None else 0
        count = self.count or max(1, gpus)
        return [f"cuda:{slot % gpus}" if gpus else self.device for slot in range(count)]

    def threads(self) -> int:
        """Of torch in each worker, so that all together have those that one process would."""
        return max(1, torch.get_num_threads() // len(self.devices()))
