"""Settings of a server, as `vlv serve` sets them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlv.serving.http.keys import ApiKey


@dataclass(frozen=True)
class WorkerSettings:
    """The model, as `vlv.inference.loading.open_model` takes it, and the sizes of its batches.

    name: the model's name in the API. engine, engine_url: what runs the language model, as in
    `vlv.inference.engine_choice`. max_batch: captions in one batch; max_pictures: generated
    images in one batch. stall_seconds: the worker process is replaced when one layer of a network
    takes longer.
    """

    model: str
    name: str
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    engine: Literal["transformers", "vllm", "llama.cpp"] = "transformers"
    engine_url: str | None = None
    max_batch: int = 16
    max_pictures: int = 4
    stall_seconds: float = 300.0


@dataclass(frozen=True)
class ImageHosts:
    """Hosts that images may be fetched from, as `vlv.data.fetching.Fetcher` takes them.

    Without names, no image is fetched. networks: non-public addresses that are allowed too.
    """

    names: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServeSettings:
    """The address to listen on, who may send requests, and the limits.

    quota_file: keeps the images that keys sent today. queue_size: requests that are accepted and
    not answered yet. timeout: seconds from the slot to the end of the response. drain_seconds:
    seconds for accepted requests after SIGTERM. origins: origins of web pages of other servers
    whose scripts may send requests. root_path: the prefix that a reverse proxy puts before every
    path.
    """

    worker: WorkerSettings
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[ApiKey, ...] = ()
    quota_file: Path | None = None
    queue_size: int = 64
    timeout: float = 120.0
    drain_seconds: float = 30.0
    max_body_mb: float = 20.0
    max_connections: int = 512
    origins: tuple[str, ...] = ()
    root_path: str = ""
    image_hosts: ImageHosts = field(default_factory=ImageHosts)

    @property
    def max_body_bytes(self) -> int:
        """Size of the largest request body."""
        return int(self.max_body_mb * 1e6)
