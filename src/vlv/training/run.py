"""What the parts of a run share: its processes, what they train, and what they say of it."""

import json
import logging
import math
from typing import Any

import torch

from vlv.errors import ConfigError
from vlv.models.precision import device_name
from vlv.training.accelerator import make_accelerator
from vlv.training.compiling import compile_blocks
from vlv.training.config import ImageSetConfig, TrainingConfig
from vlv.training.heartbeat import Heartbeat
from vlv.training.processes import Processes
from vlv.training.run_folder import append_metrics, writing
from vlv.training.samples.data_order import BY_SHARDS, DataOrder
from vlv.training.samples.source import order_of_new_run
from vlv.training.sharding import make_mesh, shard
from vlv.training.stage import Stage
from vlv.training.starts import STARTS
from vlv.training.state import TrainingState
from vlv.training.throughput import Throughput
from vlv.training.trackers import check_tracker
from vlv.version import __version__

logger = logging.getLogger(__name__)


class Run:
    """A stage on the processes of this run, each of which makes one: before the first step."""

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
        self.starts: dict[str, str] = {}
        """Hashes of the models that the run starts from, as they are now."""
        self.accelerator = make_accelerator(config)
        self.processes = Processes()
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
            config, device, self.accelerator.mixed_precision, self.accelerator.num_processes
        )
        self.data_order = order_of_new_run(config.data_order, self.samples)
        _check_order_settings(config, self.data_order)
        self.heartbeat = Heartbeat(
            self.processes,
            config.hang_seconds,
            f"the last checkpoint in {self.output_dir} is good, {self.how_to_go_on}",
        )

    @property
    def how_to_go_on(self) -> str:
        """What to do when the run has stopped, as a part of a sentence."""
        latest = self.config.resume_from_checkpoint == "latest"
        setting = "" if latest else " with resume_from_checkpoint=latest"
        return f"start the same command again{setting}"

    @property
    def writes(self) -> bool:
        """Whether this process writes what is written once: the first one does."""
        return self.accelerator.is_main_process

    @property
    def samples_per_step(self) -> int:
        """Of all processes together."""
        config = self.config
        processes = self.accelerator.num_processes
        return config.train_batch_size * config.gradient_accumulation_steps * processes

    def average(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics as the mean over the processes that know them, which have a number other than
        NaN; what none knows is left out.
        """
        known = {name: float(not math.isnan(value)) for name, value in metrics.items()}
        values = {name: value if known[name] else 0.0 for name, value in metrics.items()}
        sums, counts = self._sums(values), self._sums(known)
        return {name: sums[name] / count for name, count in counts.items() if count}

    def total_counts(self) -> dict[str, float]:
        """What is counted, as the sum over processes."""
        counts = self.state.counts
        return self._sums(counts) if counts else {}

    def _sums(self, figures: dict[str, float]) -> dict[str, float]:
        """Sums over processes."""
        mine = torch.tensor(list(figures.values()), device=self.accelerator.device)
        found = self.accelerator.reduce(mine, reduction="sum")
        return dict(zip(figures, found.tolist(), strict=True))

    def log(self, metrics: dict[str, float]) -> None:
        """Metrics of the last step, to the tracker and the metrics log."""
        if not self.writes:
            return
        with writing(self.output_dir / self.stage.name):
            self.accelerator.log(metrics, step=self.state.step)
        # Six digits, not six decimals: a learning rate of 1e-5 must not become 0.
        line = {"step": self.state.step, **{k: float(f"{v:.6g}") for k, v in metrics.items()}}
        append_metrics(self.output_dir, line)
        logger.info("%s %s", self.stage.name, json.dumps(line))

    def record(self, metrics: dict[str, float], counts: dict[str, float]) -> dict[str, Any]:
        """What a finished run records of itself."""
        state, stage, device = self.state, self.stage, self.accelerator.device
        return {
            "stage": stage.name,
            "config": self.config.model_dump(mode="json"),
            "steps": state.step,
            "samples_seen": state.step * self.samples_per_step,
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
            **({STARTS: self.starts} if self.starts else {}),
        }


def _check_order_settings(config: TrainingConfig, order: DataOrder) -> None:
    """Raises ConfigError where `data` says how shards are read, and they are read otherwise."""
    data = config.data
    if order == BY_SHARDS or not isinstance(data, ImageSetConfig):
        return
    if data.streams is not None or data.shuffle_buffer is not None:
        raise ConfigError(
            f"data.streams and data.shuffle_buffer are of data_order {BY_SHARDS}, and this run has "
            f"data_order {order}: set data_order: {BY_SHARDS}, or leave them out"
        )
