"""Saving a run in a checkpoint, and going on from one."""

import logging
from pathlib import Path

from vlv.training.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    check_same_run,
    resolve_checkpoint,
)
from vlv.training.run import Run
from vlv.training.run_folder import drop_metrics_after
from vlv.training.samples.data_order import FIRST_RUNS, order_of_run
from vlv.version import __version__

logger = logging.getLogger(__name__)


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
            "data_fingerprint": run.samples.fingerprint,
            "config": run.config.model_dump(mode="json"),
            "code_version": __version__,
        }
        with run.heartbeat.busy("checkpoint"):
            self._writer.start(run.state.step, run.state.tensors(), state)
        self._saved_step = run.state.step

    def wait(self) -> None:
        """Wait until what was begun is complete.

        Raises:
            TrainingError: it could not be written.
        """
        self._writer.wait()

    def resume(self) -> None:
        """Go on from the checkpoint that `resume_from_checkpoint` means, where there is one.

        Raises:
            TrainingError: it is damaged, or of another run.
        """
        run = self._run
        folder = self._folder_to_resume()
        if folder is not None:
            checkpoint = CheckpointReader(folder, run.processes)
            run.processes.on_all(
                lambda: check_same_run(
                    folder,
                    checkpoint.state,
                    run.config,
                    run.samples_per_step,
                    run.samples.fingerprint,
                )
            )
            saved_order = checkpoint.state.get("data_order", FIRST_RUNS)
            run.data_order = order_of_run(run.config.data_order, saved_order, folder)
            run.state.load(checkpoint, first_process=run.writes)
            run.throughput.resume(checkpoint.state)
            logger.info("%s: resumed from %s", run.stage.name, folder)
        elif run.writes and run.state.best is not None:
            run.state.best.forget()
        if run.writes:
            drop_metrics_after(run.output_dir, run.state.step)

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
