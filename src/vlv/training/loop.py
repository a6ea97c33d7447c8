"""The one training loop. Knows an objective, a sample source and a config; knows no model, image or
caption.

A run may be cut off at any moment, by SIGKILL too, and goes on from its last checkpoint as if
nothing had happened (bit-identical on CPU).
"""

import json
import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vlv.errors import TrainingError
from vlv.files import atomic_file
from vlv.models.precision import device_name
from vlv.training.accelerator import forget_accelerator, make_accelerator
from vlv.training.batches import MicroBatchMetrics, loader_settings
from vlv.training.checkpoint import (
    check_same_run,
    prune_checkpoints,
    read_checkpoint,
    resolve_checkpoint,
    write_checkpoint,
)
from vlv.training.compiling import compile_blocks
from vlv.training.optimizers import learning_rates
from vlv.training.provenance import RECORD, sign
from vlv.training.run_folder import append_metrics, drop_metrics_after, run_lock, writing
from vlv.training.samples.data_order import PositionSampler, key
from vlv.training.samples.source import Batch, PositionDataset, to_device
from vlv.training.stage import Stage
from vlv.training.state import TrainingState
from vlv.version import __version__

logger = logging.getLogger(__name__)

TERMINATED = 143


def train(stage: Stage) -> Path:
    """Run `stage` to `max_train_steps`, resuming if it can; returns the exported folder.

    Raises:
        TrainingError: non-finite loss or gradient, a checkpoint that does not fit, a full disk, or
            another process that trains in the same folder.
        SystemExit(143): SIGTERM arrived; a checkpoint of the current step was written.
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
        self.stage = stage
        self.config = config
        self.objective = stage.objective
        self.samples = stage.samples
        self.output_dir = config.output_dir
        self.accelerator = make_accelerator(config)
        self.objective.to(self.accelerator.device)
        if config.compile:
            compile_blocks(self.objective)
        self.state = TrainingState(self.objective, config, self.samples.counted)
        self.stop_requested = False
        self.exhausted = False

    def run(self) -> Path:
        # Of several processes that share a run, the first one writes.
        writes = self.accelerator.is_main_process
        with run_lock(self.output_dir) if writes else nullcontext():
            return self._run()

    def _run(self) -> Path:
        config, state = self.config, self.state
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._resume()
        model, optimizer = self.accelerator.prepare(self.objective, state.optimizer)
        if self.accelerator.is_main_process and config.report_to != "none":
            self.accelerator.init_trackers(self.stage.name)
        batches = iter(self._loader())
        bar = tqdm(
            total=config.max_train_steps,
            initial=state.step,
            desc=self.stage.name,
            unit="step",
            disable=None if self.accelerator.is_main_process else True,
        )
        with self._sigterm_requests_stop(), bar:
            while state.step < config.max_train_steps and not self.exhausted:
                started = time.monotonic()
                metrics = self._train_step(model, optimizer, batches)
                state.step += 1
                state.seconds += time.monotonic() - started
                bar.update()
                self._after_step(metrics, bar)
        with torch.no_grad(), state.ema_weights():
            if state.best is not None and self.accelerator.is_main_process:
                state.best.load_into(state.parameters)
            self.objective.finish()
            return self._export()

    def _loader(self) -> DataLoader[Batch]:
        """Batches from the current step to the last one."""
        config = self.config
        return DataLoader(
            PositionDataset(self.samples, config.seed),
            batch_sampler=PositionSampler(
                batch_size=config.train_batch_size,
                micro_batches=config.gradient_accumulation_steps,
                first_step=self.state.step,
                last_step=config.max_train_steps,
                rank=self.accelerator.process_index,
                world_size=self.accelerator.num_processes,
            ),
            num_workers=config.dataloader_num_workers,
            **loader_settings(config, self.accelerator.device),
        )

    def _train_step(
        self, model: torch.nn.Module, optimizer: Any, batches: Iterator[Batch]
    ) -> dict[str, float]:
        """One optimizer step over `gradient_accumulation_steps` micro-batches."""
        config, state = self.config, self.state
        self.objective.train()
        micro_batches = MicroBatchMetrics()
        norm = 0.0
        for micro in range(config.gradient_accumulation_steps):
            # Dropout and the like draw from the global generator: make it a function of the step,
            # so that there is no generator state to save or lose.
            torch.manual_seed(key(config.seed, state.step, micro, self.accelerator.process_index))
            batch = next(batches)
            for name in self.samples.counted:
                state.counts[name] += float(batch.pop(name).sum())
            batch = to_device(batch, self.accelerator.device)
            with self.accelerator.accumulate(model):
                loss, metrics = model(batch)
                micro_batches.add({"loss": loss, **metrics})
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self._finite_norm(
                        self.accelerator.clip_grad_norm_(
                            list(state.parameters.values()), config.max_grad_norm
                        ),
                        micro_batches,
                    )
                optimizer.step()
                optimizer.zero_grad()
        state.update()
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
        stop = self._anyone(self.stop_requested)
        if step % config.logging_steps == 0 or last:
            metrics = {**self._average(metrics), **self._total_counts()}
            rate = step * self._samples_per_step() / max(self.state.seconds, 1e-9)
            bar.set_postfix(loss=f"{metrics['loss']:.4f}", samples_s=f"{rate:.1f}")
            self._log({**metrics, "samples_per_second": rate})
        if step % config.validation_steps == 0 or last:
            self._validate()
            self.exhausted = self._anyone(self._has_lost_patience())
        if step % config.checkpointing_steps == 0 or last or stop:
            self._save()
        if stop:
            logger.warning("SIGTERM: checkpoint of step %d written, stopping", step)
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

    def _anyone(self, wish: bool) -> bool:
        """Whether any process wishes it: all have to stop at the same step."""
        mine = torch.tensor(float(wish), device=self.accelerator.device)
        return bool(self.accelerator.reduce(mine, reduction="sum") > 0)

    def _samples_per_step(self) -> int:
        config = self.config
        processes = self.accelerator.num_processes
        return config.train_batch_size * config.gradient_accumulation_steps * processes

    def _save(self) -> None:
        counts = self._total_counts()
        if self.accelerator.is_main_process:
            state = {
                **self.state.numbers(counts),
                "samples_per_step": self._samples_per_step(),
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
            with writing(final / RECORD):
                sign(final, run)
                with atomic_file(final / RECORD) as unfinished:
                    unfinished.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
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

    @contextmanager
    def _sigterm_requests_stop(self) -> Iterator[None]:
        def request_stop(_signal: int, _frame: FrameType | None) -> None:
            self.stop_requested = True

        previous = signal.signal(signal.SIGTERM, request_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)
