"""How a server is run, as `vlv serve` sets it."""

from dataclasses import dataclass, field

from vlv.serving.worker.process import WorkerSettings


@dataclass(frozen=True)
class ImageHosts:
    """Where images may be fetched from, as `vlv.data.fetching.Fetcher` takes it; nowhere without
    names.
    """

    names: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServeSettings:
    """Where to listen, who may ask, and how much is taken on.

    queue_size counts requests that were accepted and are not answered yet; timeout is in seconds
    from the slot to the end of the answer. origins: of pages of other servers that may ask this one
    from browsers. root_path: what a reverse proxy has before every path.
    """

    worker: WorkerSettings
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
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
        """Largest body of a request."""
        return int(self.max_body_mb * 1e6)
