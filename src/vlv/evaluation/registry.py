"""The tables by name. A table is imported when it is asked for."""

import difflib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from vlv.errors import ConfigError
from vlv.evaluation.bench import TableConfig
from vlv.evaluation.results import Progress, Result
from vlv.training.reproduce import configs_folder

# Name -> `module:config class`, in the order of the report. Each module has
# `evaluate(config, progress)`.
TABLES = {
    "mini": "vlv.evaluation.tables.mini:MiniConfig",
    "fid": "vlv.evaluation.tables.fid:FIDConfig",
    "vqa": "vlv.evaluation.tables.vqa:VQAConfig",
    "arena": "vlv.evaluation.tables.arena:ArenaConfig",
    "compose": "vlv.evaluation.tables.compose:ComposeConfig",
    "bottleneck": "vlv.evaluation.tables.bottleneck:BottleneckConfig",
    "no-stage1": "vlv.evaluation.ablations.no_stage1:NoStage1Config",
    "self-training": "vlv.evaluation.ablations.self_training:SelfTrainingAblationConfig",
    "queries": "vlv.evaluation.ablations.queries:QueriesConfig",
    "data-scale": "vlv.evaluation.ablations.data_scale:DataScaleConfig",
    "trainable": "vlv.evaluation.ablations.trainable:TrainableConfig",
    "lm-scale": "vlv.evaluation.ablations.lm_scale:LMScaleConfig",
    "cost": "vlv.evaluation.tables.cost:CostConfig",
}
# Tables that have no counterpart in the paper, which the report leaves out.
CHECKS = {
    "nested": "vlv.evaluation.ablations.nested:NestedConfig",
    "decoders": "vlv.evaluation.tables.decoders:DecodersConfig",
    "preferences": "vlv.evaluation.ablations.preferences:PreferencesAblationConfig",
    "ood": "vlv.evaluation.tables.ood:OODConfig",
    "verify": "vlv.evaluation.tables.verify:VerifyConfig",
    "renderer": "vlv.evaluation.tables.renderer:RendererConfig",
}
# Old name -> name. Old names of commands and of files of a preset stay valid.
OLD_NAMES = {"self-teach": "self-training"}


class Table(NamedTuple):
    """A table's name, its config class, the function that measures it, and the config file of its
    own fields, where the defaults of the class are not all.
    """

    name: str
    config: type[TableConfig]
    config_file: Path | None
    evaluate: Callable[[TableConfig, Progress], Result]


def table(name: str) -> Table:
    """A table by its name, or by an old name of it.

    Raises:
        ConfigError: there is no such table.
    """
    name = OLD_NAMES.get(name, name)
    known = {**TABLES, **CHECKS}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the tables are {', '.join(known)}"
        raise ConfigError(f"there is no table {name!r}; {hint}")
    place, _, config = known[name].partition(":")
    module = import_module(place)
    own = configs_folder() / "ablations" / f"{name}.yaml"
    return Table(name, getattr(module, config), own if own.is_file() else None, module.evaluate)
