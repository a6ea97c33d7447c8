"""The one training loop. Knows a Stage and its config; knows no model, image or caption.

A run is a sequence of slices: it may be cut off at any moment, by SIGKILL too, and goes on from
its last checkpoint as if nothing had happened (bit-identical on CPU).
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
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import vlv
from vlv.errors import TrainingError
from vlv.files import atomic_file
from vlv.models.precision import device_name
from vlv.training.accelerator import forget_accelerator, make_accelerator
from vlv.training.checkpoint import (
    check_same_run,
    copy_exactly,
    load_optimizer_tensors,
    optimizer_tensors,
    prune_checkpoints,
    read_checkpoint,
    resolve_checkpoint,
    write_checkpoint,
)
from vlv.training.config import TrainingConfig
from vlv.training.provenance import RECORD, sign
from vlv.training.run_folder import (
    BestWeights,
    alone_in,
    append_figures,
    forget_figures_after,
    writing,
)
from vlv.training.samples.data_order import PositionSampler, key
from vlv.training.stage import Stage, StageDataset, to_device

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
        self.config: TrainingConfig = config
        self.output_dir = config.output_dir
        self.accelerator = make_accelerator(config)
        self.parameters = stage.trainable()
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            eps=config.adam_epsilon,
        )
        self.schedule = self._make_schedule(0)
        stage.to(self.accelerator.device)
        self.ema = (
            EMAModel(
                list(self.parameters.values()),
                decay=config.ema_decay,
                use_ema_warmup=True,
                power=0.75,
                # The same arithmetic in a few kernels instead of some for each parameter.
                foreach=True,
            )
            if config.use_ema
            else None
        )
        self.best = None
        if config.keep_best is not None:
            self.best = BestWeights(config.output_dir, config.keep_best)
        self.step = 0
        self.seconds = 0.0
        # What this process has counted since the run began, or since it was resumed; the first
        # process goes on from the sum over all.
        self.counts = dict.fromkeys(sorted(stage.counted), 0.0)
        self.stop_requested = False
        self.exhausted = False

    def run(self) -> Path:
        # Of several processes that share a run, the first one writes.
        writes = self.accelerator.is_main_process
        with alone_in(self.output_dir) if writes else nullcontext():
            return self._run()

    def _run(self) -> Path:
        config = self.config
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._resume()
        model, optimizer = self.accelerator.prepare(self.stage, self.optimizer)
        if self.accelerator.is_main_process and config.report_to != "none":
            self.accelerator.init_trackers(self.stage.name)
        loader = DataLoader(
            StageDataset(self.stage),
            batch_sampler=PositionSampler(
                batch_size=config.train_batch_size,
                micro_batches=config.gradient_accumulation_steps,
                first_step=self.step,
                last_step=config.max_train_steps,
                rank=self.accelerator.process_index,
                world_size=self.accelerator.num_processes,
            ),
            num_workers=config.dataloader_num_workers,
        )
        batches = iter(loader)
        bar = tqdm(
            total=config.max_train_steps,
            initial=self.step,
            desc=self.stage.name,
            unit="step",
            disable=None if self.accelerator.is_main_process else True,
        )
        with self._sigterm_requests_stop(), bar:
            while self.step < config.max_train_steps and not self.exhausted:
                started = time.monotonic()
                figures = self._train_step(model, optimizer, batches)
                self.step += 1
                self.seconds += time.monotonic() - started
                bar.update()
                self._after_step(figures, bar)
        with torch.no_grad(), self._ema_weights():
            if self.best is not None and self.accelerator.is_main_process:
                self.best.load_into(self.parameters)
            self.stage.finish()
            return self._export()

    def _train_step(
        self, model: torch.nn.Module, optimizer: Any, batches: Iterator[Any]
    ) -> dict[str, float]:
        """One optimizer step over `gradient_accumulation_steps` micro-batches."""
        config = self.config
        self.stage.train()
        sums: dict[str, float] = {}
        norm = torch.zeros(())
        for micro in range(config.gradient_accumulation_steps):
            # Dropout and the like draw from the global generator: make it a function of the step,
            # so that there is no generator state to save or lose.
            torch.manual_seed(key(config.seed, self.step, micro, self.accelerator.process_index))
            batch = to_device(next(batches), self.accelerator.device)
            with self.accelerator.accumulate(model):
                loss, figures = model(batch)
                self._check_finite(loss, "loss")
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(
                        list(self.parameters.values()), config.max_grad_norm
                    )
                    self._check_finite(norm, "gradient")
                optimizer.step()
                optimizer.zero_grad()
            for name, value in {"loss": loss.detach(), **figures}.items():
                if name in self.counts:
                    self.counts[name] += float(value)
                    continue
                sums[name] = sums.get(name, 0.0) + float(value) / config.gradient_accumulation_steps
        self.schedule.step()
        if self.ema is not None:
            self.ema.step(self.parameters.values())
        return {**sums, "grad_norm": float(norm), "learning_rate": self.schedule.get_last_lr()[0]}

    def _check_finite(self, value: Tensor, what: str) -> None:
        number = float(value.detach())
        if not math.isfinite(number):
            raise TrainingError(
                f"{self.stage.name}: the {what} is {number} at step {self.step}; nothing was "
                f"updated, the last checkpoint in {self.output_dir} is good. Lower learning_rate "
                "or max_grad_norm, or use mixed_precision=no"
            )

    def _after_step(self, figures: dict[str, float], bar: Any) -> None:
        config, step = self.config, self.step
        last = step == config.max_train_steps
        stop = self._anyone(self.stop_requested)
        if step % config.logging_steps == 0 or last:
            figures = {**self._average(figures), **self._total_counts()}
            rate = step * self._samples_per_step() / max(self.seconds, 1e-9)
            bar.set_postfix(loss=f"{figures['loss']:.4f}", samples_s=f"{rate:.1f}")
            self._log({**figures, "samples_per_second": rate})
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
        self.stage.eval()
        with torch.no_grad(), self._ema_weights():
            figures = self.stage.validate()
            picture = self.stage.picture() if self.config.validation_picture else None
            if self.best is not None:
                self.best.offer(figures, self.step, self.parameters)
        self._log({f"validation/{name}": value for name, value in figures.items()})
        if picture is not None:
            path = self.output_dir / "samples" / f"step-{self.step}.png"
            with writing(path):
                path.parent.mkdir(exist_ok=True)
                with atomic_file(path) as unfinished:
                    picture.save(unfinished, "PNG")

    def _has_lost_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.best is not None and self.best.overtaken >= patience

    def _log(self, figures: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        with writing(self.output_dir / self.stage.name):
            self.accelerator.log(figures, step=self.step)
        # Six digits, not six decimals: a learning rate of 1e-5 has to be told from 0.
        line = {"step": self.step, **{k: float(f"{v:.6g}") for k, v in figures.items()}}
        append_figures(self.output_dir, line)
        logger.info("%s %s", self.stage.name, json.dumps(line))

    def _average(self, figures: dict[str, float]) -> dict[str, float]:
        """Figures as the mean over processes."""
        mine = torch.tensor(list(figures.values()), device=self.accelerator.device)
        mean = self.accelerator.reduce(mine, reduction="mean")
        return dict(zip(figures, mean.tolist(), strict=True))

    def _total_counts(self) -> dict[str, float]:
        """What is counted, as the sum over processes."""
        if not self.counts:
            return {}
        mine = torch.tensor(list(self.counts.values()), device=self.accelerator.device)
        total = self.accelerator.reduce(mine, reduction="sum")
        return dict(zip(self.counts, total.tolist(), strict=True))

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
            names = list(self.parameters)
            tensors = {
                "trainable": {name: p.data for name, p in self.parameters.items()},
                "optimizer": optimizer_tensors(self.optimizer, names),
            }
            if self.ema is not None:
                shadow = self.ema.shadow_params
                tensors["ema"] = dict(zip(names, shadow, strict=True))
            state = {
                "step": self.step,
                "seconds": self.seconds,
                "ema_steps": self.ema.optimization_step if self.ema is not None else 0,
                "samples_per_step": self._samples_per_step(),
                "counts": counts,
                "overtaken": 0 if self.best is None else self.best.overtaken,
                "data_fingerprint": self.stage.data_fingerprint,
                "config": self.config.model_dump(mode="json"),
                "code_version": vlv.__version__,
            }
            write_checkpoint(self.output_dir, self.step, tensors, state)
            prune_checkpoints(self.output_dir, self.config.checkpoints_total_limit, self.step)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        folder = resolve_checkpoint(self.output_dir, self.config.resume_from_checkpoint)
        if folder is None:
            self._forget_figures_after(0)
            return
        tensors, state = read_checkpoint(folder)
        check_same_run(
            folder, state, self.config, self._samples_per_step(), self.stage.data_fingerprint
        )
        names = list(self.parameters)
        copy_exactly(self.parameters, tensors["trainable"], folder)
        load_optimizer_tensors(self.optimizer, names, tensors["optimizer"])
        if self.ema is not None:
            shadow = dict(zip(names, self.ema.shadow_params, strict=True))
            copy_exactly(shadow, tensors["ema"], folder)
            self.ema.optimization_step = state["ema_steps"]
        self.step, self.seconds = state["step"], state["seconds"]
        if self.best is not None:
            self.best.resume(self.step, state.get("overtaken", 0))
        if self.accelerator.is_main_process:
            self.counts |= state.get("counts", {})
        self.schedule = self._make_schedule(self.step)
        self._forget_figures_after(self.step)
        logger.info("%s: resumed from %s", self.stage.name, folder)

    def _make_schedule(self, step: int) -> Any:
        """The learning rate's schedule over the whole run, standing at `step`."""
        for group in self.optimizer.param_groups:
            group["initial_lr"] = self.config.learning_rate
        return get_scheduler(
            self.config.lr_scheduler,
            self.optimizer,
            num_warmup_steps=self.config.lr_warmup_steps,
            num_training_steps=self.config.max_train_steps,
            last_epoch=step - 1,
        )

    def _forget_figures_after(self, step: int) -> None:
        if self.accelerator.is_main_process:
            forget_figures_after(self.output_dir, step)

    def _export(self) -> Path:
        final = self.output_dir / "final"
        counts = self._total_counts()
        self.stage.eval()
        if self.accelerator.is_main_process:
            with writing(final):
                final.mkdir(exist_ok=True)
                # The record marks the folder as done: it goes first and comes last.
                (final / RECORD).unlink(missing_ok=True)
                self.stage.export(final)
            figures = self.stage.validate()
            run = {
                "stage": self.stage.name,
                "config": self.config.model_dump(mode="json"),
                "steps": self.step,
                "samples_seen": self.step * self._samples_per_step(),
                "seconds": round(self.seconds, 1),
                "processes": self.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "device": {
                    "type": self.accelerator.device.type,
                    "name": device_name(self.accelerator.device),
                },
                "mixed_precision": self.accelerator.mixed_precision,
                "torch": torch.__version__,
                "code_version": vlv.__version__,
                "validation": figures,
                **counts,
                **({} if self.best is None else {"best_step": self.best.step}),
                **({} if self.stage.before is None else {"before": self.stage.before}),
            }
            with writing(final / RECORD):
                sign(final, run)
                with atomic_file(final / RECORD) as unfinished:
                    unfinished.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        self.accelerator.end_training()
        return final

    @contextmanager
    def _ema_weights(self) -> Iterator[None]:
        """Inside, the stage's trainable parameters are the EMA's, where one is kept."""
        if self.ema is None:
            yield
            return
        parameters = list(self.parameters.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    @contextmanager
    def _sigterm_requests_stop(self) -> Iterator[None]:
        def request_stop(_signal: int, _frame: FrameType | None) -> None:
            self.stop_requested = True

        previous = signal.signal(signal.SIGTERM, request_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)
