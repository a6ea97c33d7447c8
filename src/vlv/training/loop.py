"""The one training loop. Knows an objective, a sample source and a config; knows no model, image or
caption.

A run may be cut off at any moment, by SIGKILL too, and goes on from its last checkpoint as if
nothing had happened (bit-identical on CPU).
"""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vlv.errors import BudgetError, TrainingError
from vlv.files import atomic_file
from vlv.models.precision import device_name
from vlv.training.accelerator import forget_accelerator, make_accelerator, prepare
from vlv.training.batches import MicroBatchMetrics, loader_settings
from vlv.training.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    check_same_run,
    resolve_checkpoint,
)
from vlv.training.compiling import compile_blocks
from vlv.training.heartbeat import Heartbeat
from vlv.training.optimizers import learning_rates
from vlv.training.out_of_memory import enough_memory
from vlv.training.preemption import Preemption, StopRequested, leave_signals_to_the_run
from vlv.training.processes import Processes
from vlv.training.provenance import RECORD, write_record
from vlv.training.run_folder import append_metrics, drop_metrics_after, run_lock, writing
from vlv.training.samples.data_order import (
    FIRST_RUNS,
    PositionSampler,
    key,
    order_of_run,
)
from vlv.training.samples.source import Batch, PositionDataset, order_of_new_run, to_device
from vlv.training.sharding import full, gather_for_export, make_mesh, outside_of_steps, shard
from vlv.training.stage import Stage
from vlv.training.state import TrainingState
from vlv.training.throughput import Spent, Throughput, count_captions
from vlv.training.trackers import check_tracker, start_tracker
from vlv.version import __version__

logger = logging.getLogger(__name__)

TERMINATED = 143


def train(stage: Stage) -> Path:
    """Run `stage` to `max_train_steps`, resuming if it can; returns the exported folder.

    Raises:
        TrainingError: non-finite loss or gradient, a checkpoint that does not fit, a full disk, too
            little memory, or another process that trains in the same folder.
        BudgetError: `max_cost_usd` or `max_hours` is spent; a checkpoint was written.
        SystemExit(143): SIGTERM, SIGUSR1 or a first Ctrl-C came to one of its processes; a
            checkpoint of the last complete step was written.
    """
    try:
        with enough_memory(stage.name, stage.config):
            return _Run(stage).run()
    finally:
        forget_accelerator()


class _Run:
    def __init__(self, stage: Stage) -> None:
        config = stage.config
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        check_tracker(config)
        self.stage = stage
        self.config = config
        self.objective = stage.objective
        self.samples = stage.samples
        self.output_dir = config.output_dir
        self.accelerator = make_accelerator(config)
        self.processes = Processes()
        self.checkpoints = CheckpointWriter(
            self.output_dir, self.processes, config.checkpoints_total_limit
        )
        device = self.accelerator.device
        self.objective.to(device)
        if config.compile:
            compile_blocks(self.objective)
        mesh = make_mesh(config.sharding, device, self.processes.count)
        self.sharded = mesh is not None
        if mesh is not None:
            shard(self.objective, mesh)
        self.state = TrainingState(self.objective, config, self.samples.counted)
        self.throughput = Throughput(
            config,
            self.accelerator.device,
            self.accelerator.mixed_precision,
            self.accelerator.num_processes,
        )
        self.data_order = order_of_new_run(config.data_order, self.samples)
        self.preemption = Preemption(self.processes)
        self.heartbeat = Heartbeat(
            self.processes,
            config.hang_seconds,
            f"the last checkpoint in {self.output_dir} is good, start the same command again",
        )
        self.saved_step: int | None = None
        self.exhausted = False

    def run(self) -> Path:
        # Of several processes that share a run, the first one writes.
        writes = self.accelerator.is_main_process
        try:
            with run_lock(self.output_dir) if writes else nullcontext():
                try:
                    return self._run()
                finally:
                    self.checkpoints.wait()
        finally:
            self.heartbeat.stop()

    def _run(self) -> Path:
        config, state = self.config, self.state
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._resume()
        if 0 < state.step < config.max_train_steps:
            self._check_budget()
        model, optimizer = prepare(
            self.accelerator, self.objective, state.optimizer, sharded=self.sharded
        )
        start_tracker(self.accelerator, config, self.stage.name, state.step)
        batches = iter(self._loader())
        bar = tqdm(
            total=config.max_train_steps,
            initial=state.step,
            desc=self.stage.name,
            unit="step",
            disable=None if self.accelerator.is_main_process else True,
        )
        with self.preemption, bar:
            while state.step < config.max_train_steps and not self.exhausted:
                try:
                    with self.throughput.step(self._samples_per_step()) as taken:
                        metrics = self._train_step(model, optimizer, batches, taken)
                except StopRequested as stop:
                    self._stop(stop)
                state.step += 1
                state.seconds += taken.seconds
                bar.update()
                self._after_step(metrics, bar)
        self.checkpoints.wait()
        with torch.no_grad(), state.ema_weights():
            if state.best is not None and self._validates():
                state.best.load_into(state.parameters)
            with self.heartbeat.busy("export"):
                with outside_of_steps(self.objective):
                    self.objective.finish()
                return self._export()

    def _loader(self) -> DataLoader[Batch]:
        """Batches from the current step to the last one."""
        config = self.config
        return DataLoader(
            PositionDataset(self.samples, config.seed, self.data_order),
            batch_sampler=PositionSampler(
                batch_size=config.train_batch_size,
                micro_batches=config.gradient_accumulation_steps,
                first_step=self.state.step,
                last_step=config.max_train_steps,
                rank=self.accelerator.process_index,
                world_size=self.accelerator.num_processes,
            ),
            num_workers=config.dataloader_num_workers,
            worker_init_fn=leave_signals_to_the_run,
            **loader_settings(config, self.accelerator.device),
        )

    def _train_step(
        self, model: torch.nn.Module, optimizer: Any, batches: Iterator[Batch], taken: Spent
    ) -> dict[str, float]:
        """One optimizer step over `gradient_accumulation_steps` micro-batches.

        Until the optimizer's step, nothing of the run's state changes: StopRequested gives it up.
        """
        config, state = self.config, self.state
        self.objective.train()
        micro_batches = MicroBatchMetrics()
        counts = dict.fromkeys(state.counts, 0.0)
        norm = 0.0
        for micro in range(config.gradient_accumulation_steps):
            self.heartbeat.progress(state.step, micro)
            self.preemption.check()
            # Dropout and the like draw from the global generator: make it a function of the step,
            # so that there is no generator state to save or lose.
            torch.manual_seed(key(config.seed, state.step, micro, self.accelerator.process_index))
            batch = next(batches)
            count_captions(taken, batch)
            for name in self.samples.counted:
                counts[name] += float(batch.pop(name).sum())
            batch = to_device(batch, self.accelerator.device)
            with self.accelerator.accumulate(model):
                loss, metrics = model(batch)
                micro_batches.add({"loss": loss, **metrics})
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self._finite_norm(
                        full(
                            self.accelerator.clip_grad_norm_(
                                list(state.parameters.values()), config.max_grad_norm
                            )
                        ),
                        micro_batches,
                    )
                optimizer.step()
                optimizer.zero_grad()
        state.update()
        for name, count in counts.items():
            state.counts[name] += count
        return {**micro_batches.means(), "grad_norm": norm, **learning_rates(optimizer)}

    def _finite_norm(self, norm: Tensor, micro_batches: MicroBatchMetrics) -> float:
        """The gradient's norm, if it and every loss of the step are finite. The only place in a
        step that waits for the device, just before the update.
        """
        number = micro_batches.read_with(norm)
        for loss in micro_batches.losses:
            self._check_finite(loss, "loss")
        self._check_finite(number, "gradient")
        return number

    def _check_finite(self, number: float, what: str) -> None:
        if not math.isfinite(number):
            raise TrainingError(
                f"{self.stage.name}: the {what} is {number} at step {self.state.step}; nothing was "
                f"updated, the last checkpoint in {self.output_dir} is good. Lower learning_rate "
                "or max_grad_norm, or use mixed_precision=no"
            )

    def _after_step(self, metrics: dict[str, float], bar: Any) -> None:
        config, step = self.config, self.state.step
        last = step == config.max_train_steps
        spent = self._budget_is_spent()
        if step % config.logging_steps == 0 or last:
            metrics = {**self._average(metrics), **self._total_counts()}
            if self.accelerator.is_main_process:
                metrics |= self.throughput.figures()
                rate = metrics["samples_per_second"]
                bar.set_postfix(loss=f"{metrics['loss']:.4f}", samples_s=f"{rate:.1f}")
            self._log(metrics)
        if step % config.validation_steps == 0 or last:
            with self.heartbeat.busy("validation"), self.throughput.validation():
                self._validate()
            self.exhausted = self.processes.anyone(self._has_lost_patience())
        if step % config.checkpointing_steps == 0 or last or spent:
            with self.throughput.phase("saving"):
                self._save()
        if spent and not last and not self.exhausted:
            self.checkpoints.wait()
            self._check_budget()

    def _budget_is_spent(self) -> bool:
        """For all processes at the same step, by the clock of any."""
        throughput = self.throughput
        return throughput.limited and self.processes.anyone(throughput.exceeded() is not None)

    def _check_budget(self) -> None:
        """Raises BudgetError where the budget is spent."""
        if self._budget_is_spent():
            raise BudgetError(
                f"{self.stage.name}: the budget {self.throughput.exceeded() or ''} is spent after "
                f"step {self.state.step} of {self.config.max_train_steps}; the checkpoint of this "
                f"step is in {self.output_dir}: start the same command with a higher limit to go on"
            )

    def _stop(self, stop: StopRequested) -> NoReturn:
        """End between two steps, as a signal asked."""
        step = self.state.step
        if self.saved_step != step:
            self._save()
        self.checkpoints.wait()
        logger.warning("%s: checkpoint of step %d written, stopping", stop.name, step)
        raise SystemExit(TERMINATED)

    def _validates(self) -> bool:
        """Whether this process computes what is not a step: the first one that has all weights, or
        all that have parts of them.
        """
        return self.sharded or self.accelerator.is_main_process

    def _validate(self) -> None:
        if not self._validates():
            return
        state, writes = self.state, self.accelerator.is_main_process
        self.objective.eval()
        with torch.no_grad(), state.ema_weights():
            with outside_of_steps(self.objective):
                metrics = self._validation_metrics()
                picture = self.objective.picture() if self.config.validation_picture else None
            if state.best is not None:
                state.best.offer(metrics, state.step, state.parameters, writes=writes)
        self._log({f"validation/{name}": value for name, value in metrics.items()})
        if picture is not None and writes:
            path = self.output_dir / "samples" / f"step-{state.step}.png"
            with writing(path):
                path.parent.mkdir(exist_ok=True)
                with atomic_file(path) as unfinished:
                    picture.save(unfinished, "PNG")

    def _validation_metrics(self) -> dict[str, float]:
        metrics = self.objective.validate()
        # What follows from them has to be the same on all processes, to the last bit.
        return self.processes.from_first(metrics) if self.sharded else metrics

    def _has_lost_patience(self) -> bool:
        patience, best = self.config.patience, self.state.best
        return patience is not None and best is not None and best.overtaken >= patience

    def _log(self, metrics: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        with writing(self.output_dir / self.stage.name):
            self.accelerator.log(metrics, step=self.state.step)
        # Six digits, not six decimals: a learning rate of 1e-5 must not become 0.
        line = {"step": self.state.step, **{k: float(f"{v:.6g}") for k, v in metrics.items()}}
        append_metrics(self.output_dir, line)
        logger.info("%s %s", self.stage.name, json.dumps(line))

    def _average(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics as the mean over processes."""
        mine = torch.tensor(list(metrics.values()), device=self.accelerator.device)
        mean = self.accelerator.reduce(mine, reduction="mean")
        return dict(zip(metrics, mean.tolist(), strict=True))

    def _total_counts(self) -> dict[str, float]:
        """What is counted, as the sum over processes."""
        counts = self.state.counts
        if not counts:
            return {}
        mine = torch.tensor(list(counts.values()), device=self.accelerator.device)
        total = self.accelerator.reduce(mine, reduction="sum")
        return dict(zip(counts, total.tolist(), strict=True))

    def _samples_per_step(self) -> int:
        config = self.config
        processes = self.accelerator.num_processes
        return config.train_batch_size * config.gradient_accumulation_steps * processes

    def _save(self) -> None:
        """Begin to write a checkpoint of this step; the next save waits for it, as does the end."""
        counts = self._total_counts()
        state = {
            **self.state.numbers(counts),
            **self.throughput.numbers(),
            "record": self._record({}, counts),
            "samples_per_step": self._samples_per_step(),
            "data_order": self.data_order,
            "data_fingerprint": self.samples.fingerprint,
            "config": self.config.model_dump(mode="json"),
            "code_version": __version__,
        }
        with self.heartbeat.busy("checkpoint"):
            self.checkpoints.start(self.state.step, self.state.tensors(), state)
        self.saved_step = self.state.step

    def _resume(self) -> None:
        folder = self._checkpoint_to_resume()
        first_process = self.accelerator.is_main_process
        if folder is not None:
            checkpoint = CheckpointReader(folder, self.processes)
            self.processes.on_all(
                lambda: check_same_run(
                    folder,
                    checkpoint.state,
                    self.config,
                    self._samples_per_step(),
                    self.samples.fingerprint,
                )
            )
            saved_order = checkpoint.state.get("data_order", FIRST_RUNS)
            self.data_order = order_of_run(self.config.data_order, saved_order, folder)
            self.state.load(checkpoint, first_process=first_process)
            self.throughput.resume(checkpoint.state)
            logger.info("%s: resumed from %s", self.stage.name, folder)
        if first_process:
            drop_metrics_after(self.output_dir, self.state.step)

    def _checkpoint_to_resume(self) -> Path | None:
        """The first process decides; each has to find the same one on its own disk."""

        def decide() -> Path | None:
            wish = self.config.resume_from_checkpoint
            found = resolve_checkpoint(self.output_dir, wish) if self.processes.first else None
            inside = found is not None and found.parent == self.output_dir
            return Path(found.name) if found is not None and inside else found

        decided = self.processes.from_first(self.processes.on_all(decide))
        if decided is None or len(decided.parts) > 1:
            return decided
        return self.output_dir / decided

    def _export(self) -> Path:
        final = self.output_dir / "final"
        counts = self._total_counts()
        self.objective.eval()
        writes = self.accelerator.is_main_process
        if self._validates():
            with outside_of_steps(self.objective), self.throughput.phase("last_validation"):
                metrics = self._validation_metrics()
        if self.sharded:
            gather_for_export(self.objective, keep=writes)
        if writes:
            with writing(final), self.throughput.phase("export"):
                final.mkdir(exist_ok=True)
                # The record marks the folder as done: it goes first and comes last.
                (final / RECORD).unlink(missing_ok=True)
                self.objective.export(final)
            run = self._record(metrics, counts)
            write_record(final, run)
        self.accelerator.end_training()
        return final

    def _record(self, metrics: dict[str, float], counts: dict[str, float]) -> dict[str, Any]:
        """What a finished run records of itself."""
        state, stage, device = self.state, self.stage, self.accelerator.device
        return {
            "stage": stage.name,
            "config": self.config.model_dump(mode="json"),
            "steps": state.step,
            "samples_seen": state.step * self._samples_per_step(),
            "seconds": round(state.seconds, 1),
            "elapsed_seconds": round(self.throughput.seconds, 3),
            "phases": self.throughput.phases(),
            "processes": self.accelerator.num_processes,
            **({"sharding": self.config.sharding} if self.sharded else {}),
            "threads": torch.get_num_threads(),
            "device": {"type": device.type, "name": device_name(device)},
            "mixed_precision": self.accelerator.mixed_precision,
            "torch": torch.__version__,
            "code_version": __version__,
            "validation": metrics,
            **counts,
            **({} if state.best is None else {"best_step": state.best.step}),
            **({} if stage.before is None else {"before": stage.before}),
        }
