"""`vlv reproduce`: every table of a preset, measured once and kept.

A preset is a folder with a YAML file for each table, which sets fields of the table's config. A
kept result is valid while its config, the hashes of the weights and the renderer of the scenes are
the same, so that an interrupted report is continued. The version of the package is recorded only.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

from vlv.checkpoints.hub import EMBEDDED, resolve
from vlv.checkpoints.parts import MANIFEST_FILE
from vlv.errors import ConfigError
from vlv.evaluation import registry
from vlv.evaluation.bench import TableConfig
from vlv.evaluation.results import (
    Progress,
    Result,
    environment,
    folder_hash,
    model_hash,
    read_result,
    silent,
    to_json,
)
from vlv.evaluation.scenes import COUNT, Scenes, draw_scenes
from vlv.files import write_json
from vlv.text import read_object
from vlv.training.config import check_config, read_yaml
from vlv.training.reproduce import ORDER, configs_folder
from vlv.version import __version__
from vlv.world.inspector import DEFAULT_FOLDER
from vlv.world.render import renderer_version

logger = logging.getLogger(__name__)

T = TypeVar("T")
RESULTS = "results"
SCENES = "pictures/scenes.png"
_YAML = (".yaml", ".yml")
# The key in a result's provenance of what it was measured with for a report.
MEASURED = "reproduction"
# What the pages show of it.
_SHOWN = {"config", "weights", "seconds", "date", "machine", "environment", "code_version"}


@dataclass(frozen=True)
class Failure:
    """A table, or the pictures, that could not be made, and why."""

    name: str
    error: str


@dataclass(frozen=True)
class Report:
    """What was measured of a preset, in the order of its tables; scenes None where they failed."""

    preset: str
    results: list[Result]
    scenes: Scenes | None
    failures: list[Failure]


def presets() -> list[str]:
    """Names of the reports in the package."""
    return sorted(path.name for path in (configs_folder() / "report").iterdir() if path.is_dir())


def preset_folder(preset: str) -> Path | None:
    """The folder of a report's configs: of a name in the package, or any folder of configs that
    are no stages of training; None if it is neither.
    """
    if preset in presets():
        return configs_folder() / "report" / preset
    names = set(_config_files(Path(preset)))
    return Path(preset) if names and not names & set(ORDER) else None


def _config_files(folder: Path) -> dict[str, Path]:
    """The YAML files of a folder by the names of their tables."""
    paths = [path for path in sorted(folder.glob("*")) if path.suffix in _YAML]
    return {registry.OLD_NAMES.get(path.stem, path.stem): path for path in paths}


def read_preset(folder: Path) -> dict[str, TableConfig]:
    """Checked configs of a preset's tables, in the report's order.

    A preset's fields go before those of a table's own config file.

    Raises:
        ConfigError: a file is not named after a table, or holds what its config does not take.
    """
    paths = _config_files(folder)
    if checks := sorted(set(paths) & set(registry.CHECKS)):
        raise ConfigError(
            f"{paths[checks[0]]}: reports have no table {checks[0]}; measure it with "
            f"`vlv eval {checks[0]} --config FILE`"
        )
    tables = {name: registry.table(name) for name in paths}
    order = list(registry.TABLES)
    configs = {}
    for name in sorted(paths, key=order.index):
        table = tables[name]
        own = {} if table.config_file is None else read_yaml(table.config_file)
        fields = {**own, **read_yaml(paths[name])}
        configs[name] = check_config(table.config, fields, str(paths[name]))
    return configs


def reproduce(
    folder: Path,
    output: Path,
    progress: Progress = silent,
    tables: Collection[str] | None = None,
) -> Report:
    """Measure what is not measured yet in `output`/results; a failed table loses no other.

    tables: names of those to measure. The others of the preset are in the report if `output` holds
    them, whatever they were measured with.

    Raises:
        ConfigError: as `read_preset`; or the preset has no such table, or the result of another
            table is damaged.
    """
    configs = read_preset(folder)
    wanted = _wanted(tables, configs, folder)
    others = {
        name: _reported(path)
        for name in configs.keys() - wanted
        if (path := _result_file(output, name)).is_file()
    }
    for name in (RESULTS, Path(SCENES).parent):
        (output / name).mkdir(parents=True, exist_ok=True)
    failures: list[Failure] = []
    results = [
        result
        for name, config in configs.items()
        if (
            result := _tried(name, failures, _measured, name, config, output, progress)
            if name in wanted
            else others.get(name)
        )
    ]
    first = next(iter(configs.values()))
    scenes = _tried("pictures", failures, _drawn, first, output, progress)
    return Report(folder.name, results, scenes, failures)


def _wanted(tables: Collection[str] | None, known: Collection[str], folder: Path) -> set[str]:
    if tables is None:
        return set(known)
    names = {registry.OLD_NAMES.get(name, name) for name in tables}
    if unknown := sorted(names - set(known)):
        raise ConfigError(
            f"the preset {folder.name} has no table {unknown[0]!r}; its tables are "
            f"{', '.join(known)}"
        )
    return names


def kept_report(folder: Path, output: Path) -> Report:
    """The report of a preset from the results that are in `output`, whatever they were measured
    with; measures nothing.

    Raises:
        ConfigError: as `read_preset`; or a result, or the scenes, are missing or damaged.
    """
    paths = {name: _result_file(output, name) for name in read_preset(folder)}
    needed = [*paths.values(), output / SCENES, _record(output / SCENES)]
    if missing := [str(path.relative_to(output)) for path in needed if not path.is_file()]:
        raise ConfigError(
            f"{output} holds no {', '.join(missing)}; measure what is missing with the "
            "same command without --render-only"
        )
    record = _record(output / SCENES)
    results = [_reported(path) for path in paths.values()]
    return Report(folder.name, results, _scenes(record, read_object(record, ConfigError)), [])


def _result_file(output: Path, name: str) -> Path:
    return output / RESULTS / f"{name}.json"


def _reported(path: Path) -> Result:
    """A result that was measured for a report."""
    result = read_result(path)
    measured = result.provenance.get(MEASURED)
    if not isinstance(measured, dict) or not measured.keys() >= _SHOWN:
        raise ConfigError(
            f"{path} does not say how it was measured, as `vlv reproduce` notes it; remove it and "
            "measure it with that command"
        )
    return result


def identity(config: TableConfig) -> dict[str, Any]:
    """What must be the same for a kept result to be valid."""
    weights = {
        **dict(_inputs(config.model_dump())),
        "model": model_hash(resolve(config.model)),
        "inspector": folder_hash(config.inspector or DEFAULT_FOLDER),
    }
    return {
        "config": config.model_dump(mode="json"),
        "weights": weights,
        "renderer": renderer_version(),
    }


def _measured(name: str, config: TableConfig, output: Path, progress: Progress) -> Result:
    path = _result_file(output, name)
    same = identity(config)
    if path.is_file():
        kept = read_result(path)
        if _measured_with(same, kept.provenance):
            logger.info("%s: measured already (%s)", name, path)
            return kept
    logger.info("%s: measuring", name)
    start = time.perf_counter()
    result = registry.table(name).evaluate(config, progress)
    seconds = round(time.perf_counter() - start, 1)
    measured = {**same, **_occasion(config), "seconds": seconds}
    result = replace(result, provenance={**result.provenance, MEASURED: measured})
    write_json(path, to_json(result))
    logger.info("%s: measured in %s s", name, seconds)
    return result


def _measured_with(same: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether a record was measured with what is the same now."""
    measured = record.get(MEASURED)
    return isinstance(measured, dict) and same.items() <= measured.items()


def _drawn(first: TableConfig, output: Path, progress: Progress) -> Scenes:
    """The scenes' pictures with the model of the first table."""
    fields = first.model_dump(include=set(TableConfig.model_fields)) | {"count": COUNT}
    config = TableConfig(**fields)
    same = identity(config)
    path = output / SCENES
    record = _record(path)
    if path.is_file() and record.is_file():
        kept = read_object(record, ConfigError)
        if _measured_with(same, kept):
            return _scenes(record, kept)
    scenes = draw_scenes(config, path, progress)
    write_json(record, {"scenes": asdict(scenes), MEASURED: same})
    return scenes


def _record(picture: Path) -> Path:
    """The file of the scenes' captions, and of what they were drawn with."""
    return picture.with_suffix(".json")


def _scenes(record: Path, kept: dict[str, Any]) -> Scenes:
    try:
        return Scenes(**kept["scenes"])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{record} does not hold the scenes of a report; remove it to draw them anew"
        ) from error


def _tried(name: str, failures: list[Failure], work: Callable[..., T], *args: Any) -> T | None:
    """What the work returns. A failure of any kind is logged and recorded instead."""
    try:
        return work(*args)
    except Exception as error:
        logger.exception("%s: failed", name)
        failures.append(Failure(name, f"{type(error).__name__}: {error}"))
        return None


def _inputs(fields: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Fields of a config that name a model folder or a file, with the hash of what is there."""
    if isinstance(fields, dict):
        for key, value in fields.items():
            yield from _inputs(value, f"{name}.{key}".lstrip("."))
    elif isinstance(fields, list | tuple):
        for at, value in enumerate(fields):
            yield from _inputs(value, f"{name}.{at}")
    elif isinstance(fields, Path) and fields.is_file():
        yield name, hashlib.sha256(fields.read_bytes()).hexdigest()
    elif isinstance(fields, str | Path):
        place = EMBEDDED.get(str(fields), Path(fields))
        if (place / MANIFEST_FILE).is_file():
            yield name, model_hash(place)


def _occasion(config: TableConfig) -> dict[str, Any]:
    """When, where and with which code it was measured, which does not invalidate a kept result."""
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} CPU cores"
    date = datetime.now(UTC).date().isoformat()
    return {
        "date": date,
        "machine": machine,
        "environment": environment(),
        "code_version": __version__,
    }
