"""A server from start to stop: the worker beside it, draining on SIGTERM, and its end."""

import asyncio
from socket import socket
from types import FrameType

import uvicorn

from vlv.errors import CheckpointError, ConfigError
from vlv.serving.api.context import Service
from vlv.serving.api.images import Images
from vlv.serving.app import build_app
from vlv.serving.engine import Engine
from vlv.serving.http.admission import Admission
from vlv.serving.http.auth import check_exposure
from vlv.serving.http.connections import BACKLOG, Connection, connection_limit
from vlv.serving.metrics import Metrics
from vlv.serving.settings import ServeSettings
from vlv.serving.telemetry import log, log_json

# So many bodies of the largest size may be in memory at once.
_LARGEST_BODIES = 16


def serve(settings: ServeSettings) -> None:
    """Serve until a signal; the first one lets accepted requests finish, the second does not.

    Raises:
        ConfigError: strangers could reach a server without a key, or a setting is written wrongly.
        CheckpointError: the model cannot be opened.
    """
    check_exposure(settings.host, settings.api_keys)
    asyncio.run(_serve(settings))


async def _serve(settings: ServeSettings) -> None:
    metrics = Metrics()
    engine = Engine(settings.worker, metrics)
    most = _LARGEST_BODIES * settings.max_body_bytes
    admission = Admission(settings.queue_size, settings.timeout, most, metrics)
    images = Images(settings.image_hosts)
    service = Service(engine, images, admission, metrics)
    server = _Server(service, settings)
    log_json()
    working = asyncio.create_task(engine.run())
    working.add_done_callback(lambda _: server.stop())
    try:
        await server.serve()
    finally:
        working.cancel()
        await asyncio.wait([working])
        images.close()
    if engine.failure is not None:
        raise CheckpointError(engine.failure)
    if not working.cancelled():
        working.result()


class _Server(uvicorn.Server):
    """uvicorn, which on SIGTERM would close its port at once: this one first answers 503."""

    def __init__(self, service: Service, settings: ServeSettings) -> None:
        class Bounded(Connection):
            most = connection_limit(settings.max_connections)
            metrics = service.metrics

        config = uvicorn.Config(
            build_app(service, settings),
            settings.host,
            settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            http=Bounded,
            ws="none",
            backlog=BACKLOG,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=15,
        )
        super().__init__(config)
        self._service = service
        self._drain_seconds = settings.drain_seconds
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Bind, and say where.

        Raises:
            ConfigError: the address cannot be listened at.
        """
        host, port = self.config.host, self.config.port
        host = f"[{host}]" if ":" in host else host
        try:
            await super().startup(sockets)
        except SystemExit as error:  # uvicorn's way; it has logged why
            raise ConfigError(
                f"cannot listen at {host}:{port}; choose another --port, or stop what uses it"
            ) from error
        for server in self.servers:
            for bound in server.sockets:
                log("listening", url=f"http://{host}:{bound.getsockname()[1]}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second stops."""
        if self._service.admission.draining:
            self._loop.call_soon_threadsafe(self.stop)
        else:
            self._service.admission.draining = True
            self._loop.call_soon_threadsafe(self._start_draining)

    def stop(self) -> None:
        """End now; what is still asked is told so and cut off within a second."""
        self.should_exit = True
        self._service.admission.end()

    def _start_draining(self) -> None:
        log("draining", requests=self._service.admission.used)
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        end = self._loop.time() + self._drain_seconds
        while self._service.admission.used and self._loop.time() < end:
            await asyncio.sleep(0.05)
        self.stop()
