"""The process that owns the model: it reads commands from a pipe, sends events, and ends with it.

It may die at any time: the engine at the other end starts another one and submits the jobs again.
"""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from vlv.errors import EngineError, VLVError
from vlv.serving.settings import WorkerSettings
from vlv.serving.telemetry import log_as_json, log_error
from vlv.serving.worker.jobs import CannotStart, Event, ModelInfo, Ready
from vlv.serving.worker.watchdog import HeartbeatSender

if TYPE_CHECKING:
    from vlv.models.vlv import VLVModel


def run_worker(settings: WorkerSettings, pipe: Connection) -> None:
    """Do jobs until None comes, or the other end of the pipe closes."""
    # The server ends this process by the pipe, once the accepted work is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log_as_json()
    lock = threading.Lock()

    def report(event: Event) -> None:
        with lock:  # heartbeats come from a thread of their own
            pipe.send(event)

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            _run(settings, pipe, report, HeartbeatSender(report))
        except EngineError as error:
            log_error("engine stopped", error=str(error))


def _run(
    settings: WorkerSettings,
    pipe: Connection,
    report: Callable[[Event], None],
    heartbeats: HeartbeatSender,
) -> None:
    from vlv.checkpoints.memory import Work
    from vlv.inference.engine_choice import EngineChoice, closed_after
    from vlv.inference.loading import open_model
    from vlv.serving.worker.computations import layers
    from vlv.serving.worker.scheduler import Scheduler

    try:
        choice = EngineChoice(settings.engine, settings.engine_url)
        model = open_model(
            settings.model,
            revision=settings.revision,
            device=settings.device,
            dtype=settings.dtype,
            quantization=settings.quantization,
            work=Work((*choice.boxes_here, "decoder"), settings.max_batch, 1, searches=False),
        )
        info = _load_components(model, settings.name, choice.elsewhere)
        engine, prompts = choice.open(model, gives_up=False)
        scheduler = Scheduler(
            model, report, settings.max_batch, settings.max_pictures, engine, prompts
        )
    except VLVError as error:
        report(CannotStart(error))
        return
    for layer in layers(model):
        layer.register_forward_pre_hook(lambda *_: heartbeats.step())
    if engine is not None:
        heartbeats.failing = lambda: engine.failing
    report(Ready(info))
    # An engine's own processes would keep this one from ending.
    with closed_after(engine):
        while True:
            while scheduler.idle or pipe.poll():
                heartbeats.busy = not scheduler.idle
                command = pipe.recv()
                if command is None:
                    return
                scheduler.handle(command)
            heartbeats.busy = True
            scheduler.step()
            heartbeats.step()


def _load_components(model: "VLVModel", name: str, lm_elsewhere: bool) -> ModelInfo:
    """Load all components now, so that damage is found at the start, and describe the model.

    lm_elsewhere: an engine has the language model, which verification needs here.
    """
    from vlv.verification.verifier import verifier_of

    can_draw = model.can_draw
    can_caption = "caption_decoder" in model.manifest.components
    encoder, tower = model.encoder, model.text_tower
    if can_caption and not lm_elsewhere:
        _ = model.caption_decoder
    return ModelInfo(
        model=name,
        queries=encoder.settings.num_queries,
        width=tower.width,
        max_keep=tower.positions,
        can_caption=can_caption,
        can_draw=can_draw,
        can_verify=can_draw
        and "caption_decoder" in model.loaded
        and verifier_of(model) is not None,
        takes_late_captions=can_draw and model.decoder.family.takes_late_prompts,
        image_size=encoder.settings.image_size,
        crop_size=encoder.settings.crop_size,
        decoder_size=model.manifest.config.decoder_image_size,
        max_steps=model.decoder.noise_process.steps if can_draw else 0,
        knows=_knows(model),
    )


def _knows(model: "VLVModel") -> str:
    """What the card of a model says that it knows, or else what its provenance records."""
    from vlv.checkpoints.model_card import knowledge_of, what_it_knows
    from vlv.checkpoints.parts import CARD_FILE

    card = None if model.folder is None else model.folder / CARD_FILE
    said = None
    if card is not None and card.is_file():
        said = knowledge_of(card.read_text("utf-8", "replace"))
    return said or what_it_knows(model.manifest.provenance)
