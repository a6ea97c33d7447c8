"""The one training loop. Knows an objective, a sample source and a config; knows no model, image or
caption.

A run may be cut off at any moment, by SIGKILL too, and goes on from its last checkpoint as if
nothing had happened (bit-identical on CPU).
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vlv.errors import TrainingError
from vlv.files import atomic_file
from vlv.models.precision import device_name
from vlv.training.accelerator import forget_accelerator, make_accelerator
from vlv.training.checkpoint import (
    check_same_run,
    prune_checkpoints,
    read_checkpoint,
    resolve_checkpoint,
    write_checkpoint,
)
from vlv.training.heartbeat import Heartbeat
from vlv.training.preemption import (
    Agreement,
    Preemption,
    StopRequested,
    leave_signals_to_the_run,
)
from vlv.training.provenance import RECORD, write_record
from vlv.training.run_folder import append_metrics, drop_metrics_after, run_lock, writing
from vlv.training.samples.data_order import (
    FIRST_RUNS,
    NEW_RUNS,
    PositionSampler,
    key,
    order_of_run,
)
from vlv.training.samples.source import Batch, PositionDataset, to_device
from vlv.training.stage import Stage
from vlv.training.state import TrainingState
from vlv.training.trackers import check_tracker, start_tracker
from vlv.version import __version__

logger = logging.getLogger(__name__)

TERMINATED = 143


def train(stage: Stage) -> Path:
    """Run `stage` to `max_train_steps`, resuming if it can; returns the exported folder.

    Raises:
        TrainingError: non-finite loss or gradient, a checkpoint that does not fit, a full disk, or
            another process that trains in the same folder.
        SystemExit(143): SIGTERM, SIGUSR1 or a first Ctrl-C came to one of its processes; a
            checkpoint of the last complete step was written.
    """
    try:
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
        self.objective.to(self.accelerator.device)
        self.state = TrainingState(self.objective, config, self.samples.counted)
        self.data_order = config.data_order or NEW_RUNS
        self.agreement = Agreement(self.accelerator.num_processes)
        self.preemption = Preemption(self.agreement)
        self.heartbeat = Heartbeat(
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self.agreement,
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
                return self._run()
        finally:
            self.heartbeat.stop()

    def _run(self) -> Path:
        config, state = self.config, self.state
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._resume()
        model, optimizer = self.accelerator.prepare(self.objective, state.optimizer)
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
                started = time.monotonic()
                try:
                    metrics = self._train_step(model, optimizer, batches)
                except StopRequested as stop:
                    self._stop(stop)
                state.step += 1
                state.seconds += time.monotonic() - started
                bar.update()
                self._after_step(metrics, bar)
        with torch.no_grad(), state.ema_weights():
            if state.best is not None and self.accelerator.is_main_process:
                state.best.load_into(state.parameters)
            with self.heartbeat.busy("export"):
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
        )

    def _train_step(
        self, model: torch.nn.Module, optimizer: Any, batches: Iterator[Batch]
    ) -> dict[str, float]:
        """One optimizer step over `gradient_accumulation_steps` micro-batches.

        Until the optimizer's step, nothing of the run's state changes: StopRequested gives it up.
        """
        config, state = self.config, self.state
        self.objective.train()
        sums: dict[str, float] = {}
        counts = dict.fromkeys(state.counts, 0.0)
        norm = torch.zeros(())
        for micro in range(config.gradient_accumulation_steps):
            self.heartbeat.progress(state.step, micro)
            self.preemption.check()
            # Dropout and the like draw from the global generator: make it a function of the step,
            # so that there is no generator state to save or lose.
            torch.manual_seed(key(config.seed, state.step, micro, self.accelerator.process_index))
            batch = next(batches)
            for name in self.samples.counted:
                counts[name] += float(batch.pop(name).sum())
            batch = to_device(batch, self.accelerator.device)
            with self.accelerator.accumulate(model):
                loss, metrics = model(batch)
                self._check_finite(loss, "loss")
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(
                        list(state.parameters.values()), config.max_grad_norm
                    )
                    self._check_finite(norm, "gradient")
                optimizer.step()
                optimizer.zero_grad()
            for name, value in {"loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value) / config.gradient_accumulation_steps
        state.update()
        for name, count in counts.items():
            state.counts[name] += count
        rate = state.schedule.get_last_lr()[0]
        return {**sums, "grad_norm": float(norm), "learning_rate": rate}

    def _check_finite(self, value: Tensor, what: str) -> None:
        number = float(value.detach())
        if not math.isfinite(number):
            raise TrainingError(
                f"{self.stage.name}: the {what} is {number} at step {self.state.step}; nothing was "
                f"updated, the last checkpoint in {self.output_dir} is good. Lower learning_rate "
                "or max_grad_norm, or use mixed_precision=no"
            )

    def _after_step(self, metrics: dict[str, float], bar: Any) -> None:
        config, step = self.config, self.state.step
        last = step == config.max_train_steps
        if step % config.logging_steps == 0 or last:
            metrics = {**self._average(metrics), **self._total_counts()}
            rate = step * self._samples_per_step() / max(self.state.seconds, 1e-9)
            bar.set_postfix(loss=f"{metrics['loss']:.4f}", samples_s=f"{rate:.1f}")
            self._log({**metrics, "samples_per_second": rate})
        if step % config.validation_steps == 0 or last:
            with self.heartbeat.busy("validation"):
                self._validate()
            self.exhausted = self.agreement.anyone(self._has_lost_patience())
        if step % config.checkpointing_steps == 0 or last:
            self._save()

    def _stop(self, stop: StopRequested) -> NoReturn:
        """End between two steps, as a signal asked."""
        step = self.state.step
        if self.saved_step != step:
            self._save()
        logger.warning("%s: checkpoint of step %d written, stopping", stop.name, step)
        raise SystemExit(TERMINATED)

    def _validate(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = self.state
        self.objective.eval()
        with torch.no_grad(), state.ema_weights():
            metrics = self.objective.validate()
            picture = self.objective.picture() if self.config.validation_picture else None
            if state.best is not None:
                state.best.offer(metrics, state.step, state.parameters)
        self._log({f"validation/{name}": value for name, value in metrics.items()})
        if picture is not None:
            path = self.output_dir / "samples" / f"step-{state.step}.png"
            with writing(path):
                path.parent.mkdir(exist_ok=True)
                with atomic_file(path) as unfinished:
                    picture.save(unfinished, "PNG")

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
        with self.heartbeat.busy("checkpoint"):
            self._write_checkpoint()
        self.saved_step = self.state.step

    def _write_checkpoint(self) -> None:
        counts = self._total_counts()
        if self.accelerator.is_main_process:
            state = {
                **self.state.numbers(counts),
                "record": self._record({}, counts),
                "samples_per_step": self._samples_per_step(),
                "data_order": self.data_order,
                "data_fingerprint": self.samples.fingerprint,
                "config": self.config.model_dump(mode="json"),
                "code_version": __version__,
            }
            step = self.state.step
            write_checkpoint(self.output_dir, step, self.state.tensors(), state)
            prune_checkpoints(self.output_dir, self.config.checkpoints_total_limit, step)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        folder = resolve_checkpoint(self.output_dir, self.config.resume_from_checkpoint)
        first_process = self.accelerator.is_main_process
        if folder is not None:
            tensors, state = read_checkpoint(folder)
            fingerprint = self.samples.fingerprint
            check_same_run(folder, state, self.config, self._samples_per_step(), fingerprint)
            saved_order = state.get("data_order", FIRST_RUNS)
            self.data_order = order_of_run(self.config.data_order, saved_order, folder)
            self.state.load(tensors, state, folder, first_process=first_process)
            logger.info("%s: resumed from %s", self.stage.name, folder)
        if first_process:
            drop_metrics_after(self.output_dir, self.state.step)

    def _export(self) -> Path:
        final = self.output_dir / "final"
        counts = self._total_counts()
        self.objective.eval()
        if self.accelerator.is_main_process:
            with writing(final):
                final.mkdir(exist_ok=True)
                # The record marks the folder as done: it goes first and comes last.
                (final / RECORD).unlink(missing_ok=True)
                self.objective.export(final)
            run = self._record(self.objective.validate(), counts)
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
            "processes": self.accelerator.num_processes,
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
