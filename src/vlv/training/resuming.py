"""Saving a run in a checkpoint, and going on from one."""

import logging
from pathlib import Path
from typing import Any

from vlv.errors import TrainingError
from vlv.training.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    resolve_checkpoint,
)
from vlv.training.config import (
    CHANGEABLE_AT_NAMED_CHECKPOINT,
    TrainingConfig,
    differing_fields,
)
from vlv.training.run import Run
from vlv.training.run_folder import drop_metrics_after
from vlv.training.samples.data_order import FIRST_RUNS, order_of_run
from vlv.training.starts import STARTS, hashes_of, only_moved, require_same_starts
from vlv.version import __version__

logger = logging.getLogger(__name__)

# What a checkpoint says of data and models beside it; earlier versions said less.
_IMAGES, _CAPTIONS = "data_fingerprint", "captions_fingerprint"


class Checkpoints:
    """The checkpoints of a run. All its processes have to call."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._writer = CheckpointWriter(
            run.output_dir, run.processes, run.config.checkpoints_total_limit
        )
        self._saved_step: int | None = None

    def save(self) -> None:
        """Begin to write a checkpoint of this step, if there is none yet; the next one waits for
        it.
        """
        run = self._run
        if self._saved_step == run.state.step:
            return
        counts = run.total_counts()
        state = {
            **run.state.numbers(counts),
            **run.throughput.numbers(),
            "record": run.record({}, counts),
            "samples_per_step": run.samples_per_step,
            "data_order": run.data_order,
            _IMAGES: run.samples.fingerprint,
            _CAPTIONS: run.samples.captions_fingerprint,
            STARTS: run.starts,
            "config": run.config.model_dump(mode="json"),
            "code_version": __version__,
        }
        best = None if run.state.best is None else run.state.best.file
        with run.heartbeat.busy("checkpoint"):
            self._writer.start(run.state.step, run.state.tensors(), state, beside=best)
        self._saved_step = run.state.step

    def wait(self) -> None:
        """Wait until what was begun is complete.

        Raises:
            TrainingError: it could not be written.
        """
        with self._run.heartbeat.busy("checkpoint"):
            self._writer.wait()

    def resume(self) -> None:
        """Go on from the checkpoint that `resume_from_checkpoint` means, where there is one.

        Raises:
            TrainingError: it is damaged, or of another run.
        """
        run = self._run
        run.starts = self._hashes_of_starts()
        folder = self._folder_to_resume()
        if folder is not None:
            checkpoint = CheckpointReader(folder, run.processes)
            run.processes.on_all(lambda: _check_same_run(folder, checkpoint.state, run))
            saved_order = checkpoint.state.get("data_order", FIRST_RUNS)
            run.data_order = order_of_run(run.config.data_order, saved_order, folder)
            run.state.load(checkpoint, first_process=run.writes)
            self._resume_best(folder, checkpoint.state)
            run.throughput.resume(checkpoint.state)
            logger.info("%s: resumed from %s", run.stage.name, folder)
        elif run.writes and run.state.best is not None:
            run.state.best.forget()
        # What it begins with is saved, or is nothing.
        self._saved_step = run.state.step
        if run.writes:
            drop_metrics_after(run.output_dir, run.state.step)

    def _hashes_of_starts(self) -> dict[str, str]:
        """By the first process: the others would read the same."""
        run = self._run

        def hashes() -> dict[str, str]:
            return hashes_of(run.stage.starts) if run.processes.first else {}

        return run.processes.from_first(run.processes.on_all(hashes))

    def _resume_best(self, folder: Path, numbers: dict[str, Any]) -> None:
        """The first process decides and writes; the others read its file when the run ends."""
        run, best = self._run, self._run.state.best
        if best is None:
            return

        def take_over() -> tuple[int | None, float, int] | None:
            return best.take_over(folder, numbers) if run.processes.first else None

        kept = run.processes.from_first(run.processes.on_all(take_over))
        assert kept is not None  # the first process has decided
        best.resume(*kept)

    def _folder_to_resume(self) -> Path | None:
        """The first process decides; each has to find the same one on its own disk."""
        run, output_dir = self._run, self._run.output_dir

        def decide() -> Path | None:
            wish = run.config.resume_from_checkpoint
            found = resolve_checkpoint(output_dir, wish) if run.processes.first else None
            inside = found is not None and found.parent == output_dir
            return Path(found.name) if found is not None and inside else found

        decided = run.processes.from_first(run.processes.on_all(decide))
        if decided is None or len(decided.parts) > 1:
            return decided
        return output_dir / decided


def _check_same_run(folder: Path, state: dict[str, Any], run: Run) -> None:
    """Raise TrainingError if going on from a checkpoint would be another run than began it."""
    config, samples = run.config, run.samples
    if state["samples_per_step"] != run.samples_per_step:
        raise TrainingError(
            f"{folder} was made with {state['samples_per_step']} samples a step, this run has "
            f"{run.samples_per_step}: make train_batch_size * gradient_accumulation_steps "
            "* processes the same, or set resume_from_checkpoint=null"
        )
    saved_starts = state.get(STARTS, {})
    differing = differing_fields(state["config"], config)
    moved = only_moved(differing, saved_starts, run.starts)
    _check_same_config(folder, [name for name in differing if name not in moved], config)
    require_same_starts(folder, saved_starts, run.starts, config.model_dump())
    if state.get(_IMAGES) != samples.fingerprint:
        raise TrainingError(
            f"{folder} was made with other images than data names now: some were added, "
            "removed or changed, or others are held out; give the old ones, another "
            "output_dir, or resume_from_checkpoint=null"
        )
    if state.get(_CAPTIONS, samples.captions_fingerprint) != samples.captions_fingerprint:
        raise TrainingError(
            f"{folder} was made with other captions than data has now: some caption files or "
            "lines of metadata were added, removed or changed; give the old ones, another "
            "output_dir, or resume_from_checkpoint=null"
        )


def _check_same_config(folder: Path, differing: list[str], config: TrainingConfig) -> None:
    """Raise TrainingError where fields differ that make another run."""
    changeable = CHANGEABLE_AT_NAMED_CHECKPOINT.issuperset(differing)
    names = ", ".join(differing)
    if differing and changeable and config.resume_from_checkpoint != "latest":
        logger.warning(
            "%s was made with other values of %s: the run goes on with yours", folder, names
        )
    elif differing:
        further = f"; to go on with yours, set resume_from_checkpoint={folder.name}"
        raise TrainingError(
            f"{folder} was made with other values of {names}; give the old values, another "
            f"output_dir, or resume_from_checkpoint=null{further if changeable else ''}"
        )
