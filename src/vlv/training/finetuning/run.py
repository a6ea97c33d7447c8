"""A fine-tune from a model and a folder of captioned pictures to a small folder that is opened like
any model: look at the pictures, count the memory, read the pictures, train, write.
"""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlv.checkpoints.parts import MANIFEST_FILE
from vlv.text import printable
from vlv.training.accelerator import computing_device
from vlv.training.best_weights import BEST_FILE
from vlv.training.checkpoint import list_checkpoints
from vlv.training.finetuning.base import Base, open_base
from vlv.training.finetuning.card import write_card
from vlv.training.finetuning.config import FinetuneConfig, FinetuneSettings
from vlv.training.finetuning.objective import FinetuneObjective
from vlv.training.finetuning.pictures import Pictures, Watch, look_over
from vlv.training.finetuning.plan import check_out, make_plan
from vlv.training.finetuning.stage import NAME, make_stage, read_pictures, say_how_long
from vlv.training.finetuning.suitability import check_words
from vlv.training.loop import enough_memory, train
from vlv.training.processes import require_one_process
from vlv.training.provenance import RECORD, read_record
from vlv.training.run_folder import writing

_LESS_MEMORY = (
    "end other programs that use it and start the same command again, or name another --out and "
    "lower --batch-size"
)


@dataclass(frozen=True)
class Finetuned:
    """The folder of a fine-tune, and why pictures of its set were refused."""

    folder: Path
    refused: list[str]


def finetune(
    settings: FinetuneSettings, say: Callable[[str], None], watch: Watch[Any]
) -> Finetuned:
    """Fine-tune, or go on with a run of the same settings that was cut off; see `vlv finetune`.

    say: receives a line on what will be done and is done. watch: as `Watch`.

    Raises:
        ConfigError: `out` holds something else, a library is missing, or a launcher has started
            several processes.
        CheckpointError: the model cannot be opened, or writes no captions.
        DatasetError: no picture is usable.
        TrainingError: too little memory, a run that gets worse, or what the loop raises.
        SystemExit(143): SIGTERM or Ctrl-C; a checkpoint was written.
    """
    require_one_process("a fine-tune")
    base = open_base(settings)
    check_out(settings, base)
    pictures = look_over(
        settings.images,
        settings.run_folder / "index",
        first_line=settings.first_line,
        trigger=settings.trigger,
        watch=watch,
    )
    config, kept_folder = make_plan(settings, base, pictures, say)
    if (settings.out / MANIFEST_FILE).is_file():
        _clear(config)
        say(f"{printable(settings.out)} is finished already")
        return Finetuned(settings.out, pictures.refused)
    with enough_memory(NAME, config, _LESS_MEMORY):
        views, reader = read_pictures(settings, base, config, pictures, kept_folder, say, watch)
        stage = make_stage(base, config, pictures, views, reader, settings, say)
        objective = stage.objective
        assert isinstance(objective, FinetuneObjective)
        objective.to(computing_device())
        objective.before = objective.held_out_loss() if objective.held_out else None
        check_words(base.name, objective, pictures.split(settings.validation, config.seed)[0], say)
        say_how_long(stage, say)
    with _interrupt_as_sigterm():
        final = train(stage, less_memory=_LESS_MEMORY)
    _finish(settings, config, base, pictures, final, objective, say)
    return Finetuned(settings.out, pictures.refused)


@contextmanager
def _interrupt_as_sigterm() -> Iterator[None]:
    """Inside, Ctrl-C ends a run as SIGTERM does: with a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _finish(
    settings: FinetuneSettings,
    config: FinetuneConfig,
    base: Base,
    pictures: Pictures,
    final: Path,
    objective: FinetuneObjective,
    say: Callable[[str], None],
) -> None:
    """Put what the run exported in its place, `vlv.json` last, and remove what only it needed."""
    record = read_record(final)
    after = record["validation"].get("caption_loss")
    with writing(settings.out):
        write_card(
            settings, config, base.record, record, objective.before, len(pictures.good), final
        )
        (final / RECORD).unlink()
        manifest = final / MANIFEST_FILE
        for path in [*(one for one in final.iterdir() if one != manifest), manifest]:
            target = settings.out / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    _clear(config)
    if after is not None and objective.before is not None:
        better = after < objective.before
        say(
            f"loss of held-out captions: {objective.before:.3f} a token before, {after:.3f} now"
            + ("" if better else "; it did not get better: try a lower --learning-rate")
        )


def _clear(config: FinetuneConfig) -> None:
    """Remove what a run needs only as long as it is not finished."""
    folder = config.output_dir
    for path in (folder / "final", folder / "index", *list_checkpoints(folder)):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("conditionings-*"):
        shutil.rmtree(path, ignore_errors=True)
    (folder / BEST_FILE).unlink(missing_ok=True)
