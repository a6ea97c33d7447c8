"""A server from start to stop: its worker process, draining on SIGTERM, and shutdown."""

import asyncio
import errno
import os
from socket import gaierror, socket
from types import FrameType

import uvicorn

from vlv.errors import ConfigError
from vlv.serving.api.context import Service
from vlv.serving.api.images import ImageReader
from vlv.serving.app import build_app
from vlv.serving.engine import Engine
from vlv.serving.http.admission import Admission
from vlv.serving.http.auth import check_exposure
from vlv.serving.http.connections import BACKLOG, Connection, connection_limit
from vlv.serving.http.keys import Quotas
from vlv.serving.settings import ServeSettings
from vlv.serving.telemetry import Metrics, log, log_as_json, log_error

# Number of bodies of the largest size that may be in memory at once.
_LARGEST_BODIES = 16
_SAVE_SECONDS = 1.0


def serve(settings: ServeSettings) -> None:
    """Serve until a signal. The first one lets accepted requests finish, the second one does not.

    Raises:
        ConfigError: other machines could reach a server without a key, or a setting is invalid.
        VLVError: the model cannot be opened, such as a CheckpointError.
    """
    check_exposure(settings.host, settings.api_keys)
    asyncio.run(_serve(settings))


async def _serve(settings: ServeSettings) -> None:
    metrics = Metrics()
    engine = Engine(settings.worker, metrics)
    max_bytes = _LARGEST_BODIES * settings.max_body_bytes
    admission = Admission(settings.queue_size, settings.timeout, max_bytes, metrics)
    images = ImageReader(settings.image_hosts)
    quotas = Quotas(settings.quota_file)
    service = Service(engine, images, admission, metrics, quotas)
    server = _Server(service, settings)
    log_as_json()
    running = asyncio.create_task(engine.run())
    running.add_done_callback(lambda _: server.stop())
    saving = asyncio.create_task(_save(quotas))
    try:
        await server.serve()
    finally:
        running.cancel()
        saving.cancel()
        await asyncio.wait([running, saving])
        _save_now(quotas)
        images.close()
    if engine.failure is not None:
        raise engine.failure
    if not running.cancelled():
        running.result()


async def _save(quotas: Quotas) -> None:
    """Keep what keys have used, so that a server that is killed forgets a second of it."""
    problem: str | None = None
    while True:
        await asyncio.sleep(_SAVE_SECONDS)
        problem = _save_now(quotas, problem)


def _save_now(quotas: Quotas, known: str | None = None) -> str | None:
    """Save, and log why that fails unless it is the `known` problem. Returns the problem."""
    try:
        quotas.save()
    except OSError as error:
        problem = str(error.strerror)
        if problem != known:
            log_error("quotas not saved", error=problem)
        return problem
    return None


class _Server(uvicorn.Server):
    """A uvicorn server that answers 503 while it drains; uvicorn closes its port on SIGTERM."""

    def __init__(self, service: Service, settings: ServeSettings) -> None:
        class LimitedConnection(Connection):
            max_connections = connection_limit(settings.max_connections)
            metrics = service.metrics

        config = uvicorn.Config(
            build_app(service, settings),
            settings.host,
            settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            http=LimitedConnection,
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
        """Bind, and log the address.

        Raises:
            ConfigError: the server cannot listen on the address.
        """
        host, port = self.config.host, self.config.port
        host = f"[{host}]" if ":" in host else host
        try:
            await super().startup(sockets)
        except SystemExit as error:  # uvicorn exits after it has logged the reason
            raise ConfigError(_cannot_listen(f"{host}:{port}", error.__context__)) from error
        for server in self.servers:
            for bound in server.sockets:
                log("listening", url=f"http://{host}:{bound.getsockname()[1]}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, stop on the second."""
        if self._service.admission.draining:
            self._loop.call_soon_threadsafe(self.stop)
        else:
            self._service.admission.draining = True
            self._loop.call_soon_threadsafe(self._start_draining)

    def stop(self) -> None:
        """Stop now: open requests are answered with an error and closed within a second."""
        self.should_exit = True
        self._service.admission.stop()

    def _start_draining(self) -> None:
        log("draining", requests=self._service.admission.used)
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        end = self._loop.time() + self._drain_seconds
        while self._service.admission.used and self._loop.time() < end:
            await asyncio.sleep(0.05)
        self.stop()


def _cannot_listen(address: str, cause: BaseException | None) -> str:
    """What to do, by the system's reason."""
    number = cause.errno if isinstance(cause, OSError) else None
    advice = {
        errno.EADDRINUSE: "choose another --port, or stop the program that uses it",
        errno.EACCES: "choose a --port above 1023",
    }.get(number or 0, "check --host and --port")
    if isinstance(cause, gaierror) or number is None:
        reason = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
    else:
        reason = os.strerror(number)
    return f"cannot listen at {address} ({reason}); {advice}"
