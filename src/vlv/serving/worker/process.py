"""The process that owns the model: reads commands from a pipe, tells events, ends with the pipe.

It may die at any time: whoever holds the other end starts another one and gives it the jobs again.
"""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from vlv.errors import VLVError
from vlv.serving.worker.jobs import CannotStart, Event, Info, Ready
from vlv.serving.worker.watchdog import Pulse
from vlv.verification.verifier import verifier_of

if TYPE_CHECKING:
    from vlv.models.vlv import VLVModel


@dataclass(frozen=True)
class WorkerSettings:
    """The model, as `vlv.inference.loading.open_model` takes it, and how much it does at once.

    stall_seconds: the worker is replaced where a step, as a layer of a network, takes longer.
    """

    model: str
    name: str
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    max_batch: int = 16
    max_pictures: int = 4
    stall_seconds: float = 300.0


def work(settings: WorkerSettings, pipe: Connection) -> None:
    """Serve until the other end of the pipe closes."""
    # Whoever stops the service stops this process by closing the pipe, when its work is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:  # heartbeats come from a thread of their own
            pipe.send(event)

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(settings, pipe, tell, Pulse(tell))


def _serve(
    settings: WorkerSettings, pipe: Connection, tell: Callable[[Event], None], pulse: Pulse
) -> None:
    from vlv.inference.loading import open_model
    from vlv.serving.worker.computations import layers
    from vlv.serving.worker.scheduler import Scheduler

    try:
        model = open_model(
            settings.model,
            revision=settings.revision,
            device=settings.device,
            dtype=settings.dtype,
            quantization=settings.quantization,
        )
        info = _load(model, settings.name)
    except VLVError as error:
        tell(CannotStart(str(error)))
        return
    scheduler = Scheduler(model, tell, settings.max_batch, settings.max_pictures)
    for layer in layers(model):
        layer.register_forward_pre_hook(lambda *_: pulse.step())
    tell(Ready(info))
    while True:
        while scheduler.idle or pipe.poll():
            pulse.busy = not scheduler.idle
            scheduler.take(pipe.recv())
        pulse.busy = True
        scheduler.turn()
        pulse.step()


def _load(model: "VLVModel", name: str) -> Info:
    """Read all boxes now, so that what is wrong with them is known, and describe the model."""
    held = model.manifest.components
    can_draw = "unet" in held
    can_caption = "caption_decoder" in held
    encoder, tower = model.encoder, model.text_tower
    if can_caption:
        _ = model.caption_decoder
    return Info(
        model=name,
        queries=encoder.settings.num_queries,
        width=tower.width,
        max_keep=tower.positions,
        can_caption=can_caption,
        can_draw=can_draw,
        can_verify=can_draw and can_caption and verifier_of(model) is not None,
        image_size=encoder.settings.image_size,
        crop_size=encoder.settings.crop_size,
        decoder_size=model.manifest.config.decoder_image_size,
        max_steps=int(model.decoder.scheduler.config.num_train_timesteps) if can_draw else 0,
    )
