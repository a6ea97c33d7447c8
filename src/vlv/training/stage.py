"""A training stage: an objective, the samples that it learns from, and the config of the run."""

from dataclasses import dataclass, field
from typing import Any

from vlv.training.config import TrainingConfig
from vlv.training.objectives.objective import Objective
from vlv.training.samples.source import SampleSource
from vlv.training.starts import Starts


@dataclass(frozen=True)
class Stage:
    """What the loop runs. Objective and samples know neither each other nor the loop."""

    name: str
    config: TrainingConfig
    objective: Objective
    samples: SampleSource
    before: dict[str, Any] | None = None
    """The record of the run of the same stage whose weights this one starts from."""
    starts: Starts = field(default_factory=dict)
    """What it starts from or reads frozen, and a run that goes on has to find unchanged."""
