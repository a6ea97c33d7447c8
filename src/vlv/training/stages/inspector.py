"""Building stage `inspector`: the measuring instrument, supervised by the true scenes."""

from vlv.training.config import TrainingConfig, WorldDataConfig
from vlv.training.objectives.inspector import InspectorObjective
from vlv.training.samples.world import (
    InspectorSamples,
    validation_images,
    world_data,
    world_images,
)
from vlv.training.stage import Stage
from vlv.training.stages.common import warn_of_unread_model
from vlv.world.inspector import Inspector

NAME = "inspector"


class InspectorConfig(TrainingConfig):
    """`more_data` are further scenes: an instrument has to read every split, since it measures on
    every split; only the measured scenes themselves must be new to it.
    """

    more_data: list[WorldDataConfig] = []


def build(config: InspectorConfig) -> Stage:
    """The stage with its network and its pictures."""
    warn_of_unread_model(config, "the inspector")
    sets = [world_images(data) for data in (world_data(config), *config.more_data)]
    objective = InspectorObjective(Inspector(), validation_images(config))
    return Stage(NAME, config, objective, InspectorSamples(sets, config.seed))
