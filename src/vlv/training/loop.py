"""The one training loop. Knows an objective, a sample source and a config; knows no model, image or
caption.

A run may be cut off at any moment, by SIGKILL too, and goes on from its last checkpoint as if
nothing had happened (bit-identical on CPU).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from torch.utils.data import DataLoader
from tqdm import tqdm

from vlv.errors import BudgetError, TrainingError
from vlv.models.precision import out_of_memory
from vlv.training.accelerator import forget_accelerator, leave_processes_at_exit, prepare
from vlv.training.batches import loader_settings
from vlv.training.config import TrainingConfig
from vlv.training.optimizer_step import OptimizerStep
from vlv.training.preemption import Preemption, StopRequested, leave_signals_to_the_run
from vlv.training.resuming import Checkpoints
from vlv.training.run import Run
from vlv.training.run_folder import run_lock
from vlv.training.samples.data_order import PositionSampler
from vlv.training.samples.source import Batch, PositionDataset
from vlv.training.stage import Stage
from vlv.training.trackers import finish_trackers, start_tracker
from vlv.training.validation import Validation

logger = logging.getLogger(__name__)

TERMINATED = 143
LESS_MEMORY = (
    "lower train_batch_size and raise gradient_accumulation_steps as much, or see with vlv cost "
    "what other settings would need"
)


def train(stage: Stage, *, less_memory: str = LESS_MEMORY) -> Path:
    """Run `stage` to `max_train_steps`, resuming if it can; returns the exported folder.
    less_memory: what an error says to do where there is too little.

    Raises:
        TrainingError: non-finite loss or gradient, a checkpoint that does not fit, a full disk, too
            little memory, or another process that trains in the same folder.
        BudgetError: `max_cost_usd` or `max_hours` is spent; a checkpoint was written.
        SystemExit(143): SIGTERM, SIGUSR1 or a first Ctrl-C came to one of its processes; a
            checkpoint of the last complete step was written.
    """
    leave_processes_at_exit(complete=False)
    try:
        with enough_memory(stage.name, stage.config, less_memory):
            final = _Loop(Run(stage)).run()
    finally:
        forget_accelerator()
    leave_processes_at_exit(complete=True)
    return final


@contextmanager
def enough_memory(name: str, config: TrainingConfig, advice: str) -> Iterator[None]:
    """Inside, a stage of this name computes. Raises TrainingError, which ends with the advice,
    where a device, or the CPU, has no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise TrainingError(
            f"{name}: the memory does not suffice for batches of {config.train_batch_size} "
            f"({reason}); {advice}"
        ) from error


class _Loop:
    def __init__(self, run: Run) -> None:
        self._run = run
        self._checkpoints = Checkpoints(run)
        self._validation = Validation(run)
        self._preemption = Preemption(run.processes)
        self._first_step = 0
        self._exhausted = False

    def run(self) -> Path:
        run = self._run
        try:
            # Of several processes that share a run, the first one writes.
            with run_lock(run.output_dir) if run.writes else nullcontext():
                try:
                    return self._train()
                finally:
                    self._checkpoints.wait()
        finally:
            run.heartbeat.stop()
            run.processes.close()

    def _train(self) -> Path:
        run, state = self._run, self._run.state
        run.output_dir.mkdir(parents=True, exist_ok=True)
        self._checkpoints.resume()
        self._first_step = state.step
        self._exhausted = self._validation.patience_is_lost()
        if self._exhausted or state.step >= run.config.max_train_steps:
            exported = self._validation.exported()
            if exported is not None:
                logger.info("%s: done already (%s)", run.stage.name, exported)
                return exported
        elif state.step > 0:
            self._check_budget()
        model, optimizer = prepare(
            run.accelerator, run.objective, state.optimizer, sharded=run.sharded
        )
        start_tracker(run.accelerator, run.config, run.stage.name, state.step)
        self._take_steps(OptimizerStep(run, model, optimizer, self._preemption))
        self._checkpoints.wait()
        final = self._validation.finish()
        finish_trackers(run.accelerator)
        return final

    def _take_steps(self, step: OptimizerStep) -> None:
        run, state = self._run, self._run.state
        batches = iter(self._loader())
        bar = tqdm(
            total=run.config.max_train_steps,
            initial=state.step,
            desc=run.stage.name,
            unit="step",
            disable=None if run.writes else True,
        )
        with self._preemption, bar:
            while state.step < run.config.max_train_steps and not self._exhausted:
                try:
                    with run.throughput.step(run.samples_per_step) as taken:
                        metrics = step.take(batches, taken)
                except StopRequested as stop:
                    self._stop(stop)
                state.step += 1
                state.seconds += taken.seconds
                bar.update()
                self._after_step(metrics, bar)

    def _loader(self) -> DataLoader[Batch]:
        """Batches from the current step to the last one."""
        run, config = self._run, self._run.config
        return DataLoader(
            PositionDataset(run.samples, config.seed, run.data_order),
            batch_sampler=PositionSampler(
                batch_size=config.train_batch_size,
                micro_batches=config.gradient_accumulation_steps,
                first_step=run.state.step,
                last_step=config.max_train_steps,
                rank=run.accelerator.process_index,
                world_size=run.accelerator.num_processes,
            ),
            num_workers=config.dataloader_num_workers,
            worker_init_fn=leave_signals_to_the_run,
            **loader_settings(config, run.accelerator.device),
        )

    def _after_step(self, metrics: dict[str, float], bar: Any) -> None:
        run, config, step = self._run, self._run.config, self._run.state.step
        last = step == config.max_train_steps
        spent = self._budget_is_spent()
        if step % config.logging_steps == 0 or last:
            self._log(metrics, bar)
        if step % config.validation_steps == 0 or last:
            self._validation.validate()
            self._exhausted = self._validation.patience_is_lost()
        if step % config.checkpointing_steps == 0 or last or spent or self._exhausted:
            with run.throughput.phase("saving"):
                self._checkpoints.save()
        if spent and not last and not self._exhausted:
            self._checkpoints.wait()
            self._check_budget()

    def _log(self, metrics: dict[str, float], bar: Any) -> None:
        run = self._run
        metrics = {**run.average(metrics), **run.total_counts()}
        if run.writes:
            metrics |= run.throughput.figures()
            rate = metrics["samples_per_second"]
            bar.set_postfix(loss=f"{metrics['loss']:.4f}", samples_s=f"{rate:.1f}")
        run.log(metrics)

    def _budget_is_spent(self) -> bool:
        """For all processes at the same step, by the clock of any."""
        throughput = self._run.throughput
        return throughput.limited and self._run.processes.anyone(throughput.exceeded() is not None)

    def _check_budget(self) -> None:
        """Raises BudgetError where the budget is spent."""
        if self._budget_is_spent():
            run = self._run
            raise BudgetError(
                f"{run.stage.name}: the budget {run.throughput.exceeded() or ''} is spent after "
                f"step {run.state.step} of {run.config.max_train_steps}; the checkpoint of this "
                f"step is in {run.output_dir}: set a higher limit and {run.how_to_go_on}"
            )

    def _stop(self, stop: StopRequested) -> NoReturn:
        """End between two steps, as a signal asked."""
        self._checkpoints.save()
        self._checkpoints.wait()
        run, step = self._run, self._run.state.step
        if step == self._first_step:
            logger.warning("%s: stopping before the first step", stop.name)
        else:
            logger.warning(
                "%s: checkpoint of step %d written, stopping; to go on, %s",
                stop.name,
                step,
                run.how_to_go_on,
            )
        raise SystemExit(TERMINATED)
