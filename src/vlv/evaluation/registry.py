"""The tables by name. Imports one only when it is asked for."""

import difflib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from vlv.errors import ConfigError
from vlv.evaluation.bench import TableConfig
from vlv.evaluation.progress import Progress
from vlv.evaluation.results import Result
from vlv.training.reproduce import configs_folder

# Name -> module with `Config` and `evaluate(config, progress)`, in the order of the report.
TABLES = {
    "mini": "vlv.evaluation.tables.mini_table",
    "fid": "vlv.evaluation.tables.fid",
    "vqa": "vlv.evaluation.tables.vqa",
    "arena": "vlv.evaluation.tables.arena",
    "compose": "vlv.evaluation.tables.compose",
    "bottleneck": "vlv.evaluation.tables.bottleneck",
    "no-stage1": "vlv.evaluation.ablations.no_stage1",
    "self-teach": "vlv.evaluation.ablations.self_training",
    "queries": "vlv.evaluation.ablations.queries",
    "data-scale": "vlv.evaluation.ablations.data_scale",
    "trainable": "vlv.evaluation.ablations.trainable",
    "lm-scale": "vlv.evaluation.ablations.lm_scale",
    "cost": "vlv.evaluation.tables.cost",
}
# Checks of what is not in the paper, which the report leaves out.
CHECKS = {
    "ood": "vlv.evaluation.tables.ood",
    "verify": "vlv.evaluation.tables.verify",
}


class Table(NamedTuple):
    """A table's config class, the function that measures it, and its own config file, where the
    class's defaults are not all.
    """

    config: type[TableConfig]
    config_file: Path | None
    evaluate: Callable[[TableConfig, Progress], Result]


def table(name: str) -> Table:
    """Raises:
    ConfigError: there is no such table.
    """
    known = {**TABLES, **CHECKS}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the tables are {', '.join(known)}"
        raise ConfigError(f"there is no table {name!r}; {hint}")
    module = import_module(known[name])
    own = configs_folder() / "ablations" / f"{name}.yaml"
    return Table(module.Config, own if own.is_file() else None, module.evaluate)
