"""A bulk job: what is captioned, how, where the results go, and by which workers.

Everything that a job records is in the folder `.vlv-bulk` of its target:

    job.json        the settings, and hashes of the plan and of the model's weights; written last,
                    when the plan is complete
    plan.jsonl      the shards
    names.jsonl     the images, if the source is a folder
    gone.jsonl      those of them that the folder no longer holds
    freed.jsonl     those whose caption files were others', which are gone
    00000.jsonl     a finished shard: a line for each image, with its caption or the failure
    00000.json      marks the shard as finished: counts of results, hashes of its files
    failed.jsonl    the lines of images without a caption, from all shards
    scratch/        unfinished work, useless after a kill
"""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from vlv.data.images import MAX_OWN_PIXELS
from vlv.data.ray_cluster import check_no_number
from vlv.data.remote.locations import local_path, url_of
from vlv.errors import ConfigError
from vlv.inference.batching import BatchSize
from vlv.inference.bulk.layout import Kind, kind_of
from vlv.inference.captioning import CaptionSettings
from vlv.inference.engine_choice import EngineChoice

Format = Literal["jsonl", "txt", "folder", "parquet", "webdataset"]
FOLDER, RECORD, SCRATCH = ".vlv-bulk", "job.json", "scratch"
# Images in a shard, unless the source comes in shards.
SHARD_SIZE = 1000
# Formats whose files may lie among the images of the source.
BESIDE: tuple[Format, ...] = ("jsonl", "txt")


@dataclass(frozen=True)
class Job:
    """What decides the results of a job: equal jobs write the same captions.

    Args:
        source: a folder, .tar or .parquet files (paths or URLs) or a quoted pattern of them, or a
            saved dataset.
        target: the folder for the results; for `jsonl` and `txt` it may be the source.
        output_format: `jsonl` (one metadata.jsonl), `txt` (captions only, in the source's tree),
            `folder` (images, captions beside them, metadata.jsonl), `parquet` or `webdataset`.
        model: an id or folder, as for `open_model`.
        revision: as for `open_model`.
        dtype: as for `open_model`.
        quantization: as for `open_model`.
        offload: as for `open_model`.
        engine: what runs the language model.
        captions: how captions are generated.
        batch_size: images in a batch; "auto" halves it when memory runs out.
        prepend: text before every caption.
        append: text after every caption.
        trigger: a word that every caption shall begin with.
        caption_extension: of the caption files of `txt` and `folder`.
        shard_size: images in a shard, if the source does not come in shards.
        max_pixels: larger images are refused. A job may be resumed with another number.
    """

    source: str
    target: Path
    output_format: Format
    model: str = "vlv-mini"
    revision: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    offload: bool = False
    engine: EngineChoice = field(default_factory=EngineChoice)
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    batch_size: BatchSize = "auto"
    prepend: str = ""
    append: str = ""
    trigger: str = ""
    caption_extension: str = ".txt"
    shard_size: int = SHARD_SIZE
    max_pixels: int = MAX_OWN_PIXELS

    def __post_init__(self) -> None:
        if self.batch_size == "auto":
            self.captions.check_auto()
        if self.shard_size < 1:
            raise ConfigError(f"the shard size is 1 or more, not {self.shard_size}")

    @property
    def folder(self) -> Path:
        """The folder of the job's own files."""
        return self.target / FOLDER

    @cached_property
    def kind(self) -> Kind:
        """The layout of the source, which is looked at once: it may be a large folder, or lie in a
        store.
        """
        return kind_of(self.source)

    @property
    def has_caption_files(self) -> bool:
        """Whether each image has a caption file of its own."""
        return self.output_format in ("txt", "folder")

    @property
    def images_needed(self) -> bool:
        """Whether the results contain the images."""
        return self.output_format not in BESIDE

    def settings(self) -> dict[str, Any]:
        """Everything that decides the results, as JSON."""
        names = (one.name for one in fields(self) if one.name not in ("target", "max_pixels"))
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        place = url_of(self.source) or os.path.abspath(local_path(self.source))
        own |= {"source": place, **asdict(own.pop("captions"))}
        # Jobs that were begun before there were these settings go on.
        if not self.trigger:
            del own["trigger"]
        if self.captions.num_queries is None:
            del own["num_queries"]
        engine = own.pop("engine")
        if engine.elsewhere:
            # Not its address: a server may move while a job goes on.
            own["engine"] = engine.name
        # Cleaning rules are functions; their names stand for them.
        return dict(json.loads(json.dumps(own, default=lambda rule: rule.__name__)))


@dataclass(frozen=True)
class Workers:
    """The processes that do the work.

    Args:
        count: the number of processes, each with a model. None is one for each GPU, or one without
            GPUs (on Ray, one for each machine of the cluster).
        device: of every worker. None is the GPUs in turn, or the best other device.
        decoders: processes of each worker that decode images.
        engine: `processes` of this machine, or the actors of a `ray` cluster.
        ray_address: of a running cluster. None is the address in RAY_ADDRESS; without one, a
            cluster is started on this machine and ended with the job.
        silence: seconds after which a process without a sign of life is replaced; not on Ray.
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
            check_no_number(self.device)
        elif self.ray_address is not None:
            raise ConfigError("an address of a Ray cluster needs --engine ray")

    def devices(self) -> list[str | None]:
        """The device of each worker; None is the best one."""
        gpus = torch.cuda.device_count() if self.device is None else 0
        count = self.count or max(1, gpus)
        return [f"cuda:{slot % gpus}" if gpus else self.device for slot in range(count)]

    def threads(self) -> int:
        """Torch's threads in each worker: together as many as one process would have."""
        return max(1, torch.get_num_threads() // len(self.devices()))
