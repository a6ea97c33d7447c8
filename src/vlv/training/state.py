"""What changes while a run trains: weights, their average, the optimizer, the learning rate and
counts. All of it goes into a checkpoint and comes back out of one. Knows no loop.

Where weights are spread over processes, so is everything that belongs to them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from vlv.errors import ConfigError, TrainingError
from vlv.training.best_weights import BestWeights
from vlv.training.checkpoint import CheckpointReader, Tensors
from vlv.training.config import TrainingConfig
from vlv.training.objectives.objective import Objective
from vlv.training.optimizers import make_optimizer, parameter_names
from vlv.training.sharding import like, local_part


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
                self._local_parameters(),
                decay=config.ema_decay,
                use_ema_warmup=True,
                power=0.75,
                # The same arithmetic in a few kernels instead of some for each parameter.
                foreach=True,
            )
            if config.use_ema
            else None
        )
        self.best = _best_weights(objective, config)
        self.step = 0
        self.seconds = 0.0
        # What this process has counted since the run began, or since it was resumed; the first
        # process goes on from the sum over all.
        self.counts = dict.fromkeys(sorted(counted), 0.0)

    def update(self) -> None:
        """What follows a step of the optimizer."""
        self.schedule.step()
        if self.ema is not None:
            self.ema.step(self._local_parameters())

    def _local_parameters(self) -> list[Tensor]:
        """What an average of weights is computed of: this process's parts."""
        return [local_part(parameter) for parameter in self.parameters.values()]

    def tensors(self) -> Tensors:
        """The tensors of a checkpoint, which are those that train."""
        tensors = {
            "trainable": {name: p.detach() for name, p in self.parameters.items()},
            "optimizer": {
                f"{name}.{field}": torch.as_tensor(value)
                for name, parameter in self.parameters.items()
                for field, value in self.optimizer.state.get(parameter, {}).items()
            },
        }
        if self.ema is not None:
            tensors["ema"] = self._average(self.ema)
        return tensors

    def _average(self, ema: EMAModel) -> dict[str, Tensor]:
        named = zip(self.parameters.items(), ema.shadow_params, strict=True)
        return {name: like(shadow, parameter) for (name, parameter), shadow in named}

    def numbers(self, counts: dict[str, float]) -> dict[str, Any]:
        """The numbers of a checkpoint; `counts` are those of all processes."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "ema_steps": self.ema.optimization_step if self.ema is not None else 0,
            "counts": counts,
            **({} if self.best is None else self.best.numbers()),
        }

    def load(self, checkpoint: CheckpointReader, *, first_process: bool) -> None:
        """Go on from a checkpoint, but for the best weights. All processes have to call.

        Raises:
            TrainingError: its tensors do not fit.
        """
        stored, numbers, folder = checkpoint.shapes, checkpoint.state, checkpoint.folder
        moments = self._moments(stored.get("optimizer", {}), folder)
        targets = {**self.tensors(), "optimizer": moments}
        for group, named in targets.items():
            there = {name: shape for name, (shape, _) in stored.get(group, {}).items()}
            require_fit({name: tensor.shape for name, tensor in named.items()}, there, folder)
        checkpoint.read(targets)
        self._load_moments(moments)
        if self.ema is not None:
            self.ema.optimization_step = numbers["ema_steps"]
        self.step, self.seconds = numbers["step"], numbers["seconds"]
        if first_process:
            self.counts |= numbers.get("counts", {})
        self.schedule = self._make_schedule(self.step)

    def _moments(
        self, stored: dict[str, tuple[torch.Size, torch.dtype]], folder: Path
    ) -> dict[str, Tensor]:
        """Room for the optimizer's tensors `{parameter}.{field}` of a checkpoint: for moments as
        parameters are spread, for numbers whole.
        """
        room = {}
        for joined, (shape, dtype) in stored.items():
            name = joined.rpartition(".")[0]
            parameter = self.parameters.get(name)
            if parameter is None:
                raise TrainingError(
                    f"{folder} does not fit this model: its optimizer knows {name}, which is not "
                    "trained; resume with the version of vlv that wrote it, or set "
                    "resume_from_checkpoint=null"
                )
            if shape == parameter.shape:
                room[joined] = torch.empty_like(parameter.detach(), dtype=dtype)
            else:
                room[joined] = torch.empty(shape, dtype=dtype)
        return room

    def _load_moments(self, moments: dict[str, Tensor]) -> None:
        names = parameter_names(self.optimizer, self.parameters)
        index = {name: number for number, name in enumerate(names)}
        state: dict[int, dict[str, Tensor]] = {}
        for joined, value in moments.items():
            name, _, field = joined.rpartition(".")
            state.setdefault(index[name], {})[field] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Inside, the trainable parameters are the EMA's, where one is kept."""
        if self.ema is None:
            yield
            return
        parameters = self._local_parameters()
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
            num_cycles=config.lr_num_cycles,
            last_epoch=step - 1,
        )


def _best_weights(objective: Objective, config: TrainingConfig) -> BestWeights | None:
    """Raises ConfigError where the best value of a metric is not its least."""
    if config.keep_best is None:
        return None
    known = objective.best_by
    if config.keep_best not in known:
        names = f"name {', '.join(known)}" if known else "this stage has none"
        raise ConfigError(
            f"keep_best names {config.keep_best!r}, which is no metric of validation whose least "
            f"value is the best; {names}, or leave keep_best out"
        )
    return BestWeights(config.output_dir, config.keep_best)


def require_fit(wanted: dict[str, torch.Size], there: dict[str, torch.Size], folder: Path) -> None:
    """Raise TrainingError where a name or a shape is not the same on both sides."""
    wrong = sorted(wanted.keys() ^ there.keys()) or [
        name for name in wanted if wanted[name] != there[name]
    ]
    if wrong:
        raise TrainingError(
            f"{folder} is of a model with other parameters ({', '.join(wrong[:5])}); name the "
            "model and the sizes that the run began with, or another output_dir for a new run"
        )
