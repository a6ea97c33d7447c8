"""Sections of the reference for settings: a table of fields, types, defaults and descriptions.

A description comes from the field itself (`Field(description=...)`), or from settings.yaml beside
this file: there under the name of the section first, then under `common`.
"""

import types
from collections.abc import Collection
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

_SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
_LONGEST_DEFAULT = 60


@cache
def descriptions() -> dict[str, dict[str, str]]:
    """Section -> field -> description."""
    text = Path(__file__).with_name("settings.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = yaml.safe_load(text)
    return found


def section(path: str) -> str:
    """The table of a settings class, by its dotted path; of one that adds to `TrainingConfig`, the
    fields that it adds.
    """
    from vlv.training.config import TrainingConfig

    module, _, name = path.rpartition(".")
    config = getattr(import_module(module), name)
    adds = issubclass(config, TrainingConfig) and config is not TrainingConfig
    return table(config, name, without=set(TrainingConfig.model_fields) if adds else ())


def stages() -> str:
    """A table for each stage of training: the fields that it adds to those of every stage."""
    from vlv.training import registry
    from vlv.training.config import TrainingConfig

    shared = set(TrainingConfig.model_fields)
    parts = []
    for name, (module, kind, *_) in registry.STAGES.items():
        config = getattr(import_module(f"vlv.training.stages.{module}"), kind)
        parts += [f"### Stage {name}", table(config, name, without=shared)]
    return "\n\n".join(parts)


def tables() -> str:
    """A table for each `vlv eval NAME`, after those of the fields that they share."""
    from vlv.evaluation.registry import CHECKS, TABLES
    from vlv.evaluation.registry import table as table_of

    configs = {name: table_of(name).config for name in (*TABLES, *CHECKS)}
    bases = {base.__name__: base for config in configs.values() for base in config.__mro__}
    every, trained = bases["TableConfig"], bases["AblationConfig"]
    shared = set(every.model_fields)
    parts = [
        *("### Every table", table(every, "TableConfig")),
        "### Tables that train models",
        table(trained, "AblationConfig", without=shared),
    ]
    for name, config in configs.items():
        known = next((b for b in (trained, every) if issubclass(config, b)), None)
        without = set(known.model_fields) if known else set()
        parts += [f"### eval {name}", table(config, f"eval {name}", without=without)]
    return "\n\n".join(parts)


def table(config: Any, name: str, *, without: Collection[str] = ()) -> str:
    """The fields of a settings class; of those in `without` only the ones that it changes."""
    rows, missing = [], []
    for field, kind, default, description in _fields(config):
        if field in without and not _changed(config, field):
            continue
        known = descriptions().get(name, {})
        text = description or known.get(field) or descriptions()["common"].get(field)
        if text is None:
            missing.append(field)
            continue
        cells = [f"`{field}`", kind, default, " ".join(text.split())]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if missing:
        raise SystemExit(f"docs/site/settings.yaml lacks {name}: {', '.join(missing)}")
    if not rows:
        return "No further fields."
    return "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows])


def _changed(config: Any, field: str) -> bool:
    """Whether a class gives an inherited field another default."""
    return field in get_annotations(config)


def _fields(config: Any) -> list[tuple[str, str, str, str | None]]:
    """Name, type, default and description of each field."""
    if is_dataclass(config):
        hints = get_type_hints(config)
        return [
            (one.name, _type(hints[one.name]), _default_of_dataclass(one), None)
            for one in fields(config)
        ]
    assert issubclass(config, BaseModel)
    return [
        (
            name,
            " ".join([_type(one.annotation), *_limits(one.metadata)]),
            "required"
            if one.default is PydanticUndefined and not one.default_factory
            else _default(one.get_default(call_default_factory=True)),
            one.description,
        )
        for name, one in config.model_fields.items()
    ]


def _default_of_dataclass(field: Any) -> str:
    if field.default is not MISSING:
        return _default(field.default)
    return "required" if field.default_factory is MISSING else _default(field.default_factory())


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, BaseModel) or is_dataclass(value):
        return f"`{type(value).__name__}()`"
    text = str(value) if isinstance(value, Path) else repr(value)
    return f"`{text}`" if len(text) <= _LONGEST_DEFAULT else "see the source"


def _limits(metadata: list[Any]) -> list[str]:
    found = []
    for one in metadata:
        if type(one) in _SIGNS:
            sign, attribute = _SIGNS[type(one)]
            found.append(f"{sign} {getattr(one, attribute)}")
    return [" and ".join(found)] if found else []


def _type(annotation: Any) -> str:
    """A type in words: `Literal`s by their values, paths as path."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "none"
    if origin is Annotated:
        return " ".join([_type(arguments[0]), *_limits(list(arguments[1:]))])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        named = [_type(one) for one in arguments if one is not type(None)]
        return " or ".join(dict.fromkeys(named))
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return f"({', '.join(map(_type, arguments))})"
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    return {Path: "path"}.get(annotation, getattr(annotation, "__name__", str(annotation)))
