"""What changes while a run trains: weights, their average, the optimizer, the learning rate and
counts. All of it goes into a checkpoint and comes back out of one. Knows no loop.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from vlv.training.checkpoint import copy_exactly, load_optimizer_tensors, optimizer_tensors
from vlv.training.config import TrainingConfig
from vlv.training.objectives.objective import Objective
from vlv.training.old_names import current_parameters
from vlv.training.optimizers import make_optimizer, parameter_names
from vlv.training.run_folder import BestWeights


class TrainingState:
    """The state of a run before its first step, until `load` reads another."""

    def __init__(
        self, objective: Objective, config: TrainingConfig, counted: Iterable[str]
    ) -> None:
        self._config = config
        self.parameters = objective.trainable()
        self.optimizer = make_optimizer(objective, config)
        # What the schedule multiplies; a group may have a rate of its own.
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = self._make_schedule(0)
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
        self.counts = dict.fromkeys(sorted(counted), 0.0)

    def update(self) -> None:
        """What follows a step of the optimizer."""
        self.schedule.step()
        if self.ema is not None:
            self.ema.step(self.parameters.values())

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of a checkpoint, by file."""
        names = list(self.parameters)
        tensors = {
            "trainable": {name: p.data for name, p in self.parameters.items()},
            "optimizer": optimizer_tensors(
                self.optimizer, parameter_names(self.optimizer, self.parameters)
            ),
        }
        if self.ema is not None:
            tensors["ema"] = dict(zip(names, self.ema.shadow_params, strict=True))
        return tensors

    def numbers(self, counts: dict[str, float]) -> dict[str, Any]:
        """The numbers of a checkpoint; `counts` are those of all processes."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "ema_steps": self.ema.optimization_step if self.ema is not None else 0,
            "counts": counts,
            "overtaken": 0 if self.best is None else self.best.overtaken,
        }

    def load(
        self,
        tensors: dict[str, dict[str, Tensor]],
        numbers: dict[str, Any],
        folder: Path,
        *,
        first_process: bool,
    ) -> None:
        """Go on from what `tensors` and `numbers` gave, read from the checkpoint `folder`.

        Raises:
            TrainingError: the tensors do not fit.
        """
        tensors = {name: current_parameters(group) for name, group in tensors.items()}
        names = list(self.parameters)
        copy_exactly(self.parameters, tensors["trainable"], folder)
        load_optimizer_tensors(
            self.optimizer, parameter_names(self.optimizer, self.parameters), tensors["optimizer"]
        )
        if self.ema is not None:
            shadow = dict(zip(names, self.ema.shadow_params, strict=True))
            copy_exactly(shadow, tensors["ema"], folder)
            self.ema.optimization_step = numbers["ema_steps"]
        self.step, self.seconds = numbers["step"], numbers["seconds"]
        if self.best is not None:
            self.best.resume(self.step, numbers.get("overtaken", 0))
        if first_process:
            self.counts |= numbers.get("counts", {})
        self.schedule = self._make_schedule(self.step)

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Inside, the trainable parameters are the EMA's, where one is kept."""
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

    def _make_schedule(self, step: int) -> Any:
        """The learning rate's schedule over the whole run, standing at `step`."""
        config = self._config
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["initial_lr"] = rate
        return get_scheduler(
            config.lr_scheduler,
            self.optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
            last_epoch=step - 1,
        )
