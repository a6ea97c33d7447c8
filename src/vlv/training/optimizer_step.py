"""One step of the optimizer over the micro-batches of all processes."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vlv.errors import TrainingError
from vlv.training.batches import MicroBatchMetrics
from vlv.training.optimizers import learning_rates
from vlv.training.preemption import Preemption
from vlv.training.run import Run
from vlv.training.samples.carried import arrived
from vlv.training.samples.data_order import key
from vlv.training.samples.source import Batch, to_device
from vlv.training.sharding import full
from vlv.training.throughput import Spent, count_captions


class OptimizerStep:
    """Takes the steps of a run. `model` and `optimizer` are those that accelerate has prepared."""

    def __init__(
        self, run: Run, model: torch.nn.Module, optimizer: Any, preemption: Preemption
    ) -> None:
        self._run = run
        self._model = model
        self._optimizer = optimizer
        self._preemption = preemption

    def take(self, batches: Iterator[Batch], taken: Spent) -> dict[str, float]:
        """One step over `gradient_accumulation_steps` micro-batches; returns its metrics.

        Until the optimizer's step, nothing of the run's state changes: StopRequested gives it up.

        Raises:
            TrainingError: the loss or the gradient is not finite; nothing was updated.
            VLVError: a sample cannot be read.
        """
        run, state = self._run, self._run.state
        run.objective.train()
        micro_batches = MicroBatchMetrics()
        counts = dict.fromkeys(state.counts, 0.0)
        norm = 0.0
        for micro in range(run.config.gradient_accumulation_steps):
            run.heartbeat.progress(state.step, micro)
            self._preemption.check()
            # Dropout and the like draw from the global generator: make it a function of the step,
            # so that there is no generator state to save or lose.
            process = run.accelerator.process_index
            torch.manual_seed(key(run.config.seed, state.step, micro, process))
            batch = arrived(next(batches))
            count_captions(taken, batch)
            for name in run.samples.counted:
                counts[name] += float(batch.pop(name).sum())
            batch = to_device(batch, run.accelerator.device)
            with run.accelerator.accumulate(self._model):
                loss, metrics = self._model(batch)
                micro_batches.add({"loss": loss, **metrics})
                run.accelerator.backward(loss)
                if run.accelerator.sync_gradients:
                    norm = self._finite_norm(self._clip(), micro_batches)
                self._optimizer.step()
                self._optimizer.zero_grad()
        state.update()
        for name, count in counts.items():
            state.counts[name] += count
        return {**micro_batches.means(), "grad_norm": norm, **learning_rates(self._optimizer)}

    def _clip(self) -> Tensor:
        """Clip the gradient; returns its norm before that, a scalar."""
        parameters = list(self._run.state.parameters.values())
        clip = self._run.accelerator.clip_grad_norm_
        return full(clip(parameters, self._run.config.max_grad_norm))

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
        run = self._run
        if not math.isfinite(number):
            raise TrainingError(
                f"{run.stage.name}: the {what} is {number} at step {run.state.step}; nothing was "
                f"updated, the last checkpoint in {run.output_dir} is good. Go on from it with a "
                "lower learning_rate or max_grad_norm, or with mixed_precision=no, and name it in "
                "resume_from_checkpoint"
            )
