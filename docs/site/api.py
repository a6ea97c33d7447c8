"""Sections of the reference for classes and functions, from signatures and docstrings.

The code is read, not imported. A docstring here explains an argument where there is something to
say about it; names, types and defaults come from the signature.
"""

from functools import cache
from pathlib import Path
from typing import Any

import griffe
from griffe import Class, DocstringSectionKind, Function

SOURCES = Path(__file__).resolve().parents[2] / "src"
_WIDTH = 88


@cache
def package() -> Any:
    """The package `vlv` as griffe reads it."""
    return griffe.load("vlv", search_paths=[str(SOURCES)])


def section(path: str, level: int = 3) -> str:
    """The section of a class or function of the package, by its dotted path.

    Raises SystemExit if there is no such thing.
    """
    try:
        found = package()[path.removeprefix("vlv.")]
    except KeyError as error:
        raise SystemExit(f"there is no {path}; correct the mark in docs/reference") from error
    if found.is_alias:
        found = found.final_target
    parts = [f"{'#' * level} {found.name}"]
    if isinstance(found, Function):
        return "\n\n".join([*parts, *_function(found)])
    parts += _class(found)
    for member in _methods(found):
        parts += [f"{'#' * (level + 1)} {found.name}.{member.name}", *_function(member)]
    return "\n\n".join(parts)


def errors() -> str:
    """A section for every class of vlv.errors, in their order."""
    classes = [one for one in package()["errors"].members.values() if isinstance(one, Class)]
    return "\n\n".join(section(one.path) for one in classes)


def _class(found: Class) -> list[str]:
    init = found.members.get("__init__")
    fields = list(init.parameters)[1:] if isinstance(init, Function) else _fields(found)
    bases = ", ".join(str(base) for base in found.bases)
    head = f"class {found.name}({bases})" if bases else f"class {found.name}"
    is_exception = found.name.endswith(("Error", "Warning"))
    code = [_code(head)] if is_exception or not fields else [_code(_call(found.name, fields))]
    return [*code, *_docstring(found)]


def _function(found: Any) -> list[str]:
    if "property" in found.labels:
        return [_code(f"{found.name}: {found.annotation}"), *_docstring(found)]
    parameters = [one for one in found.parameters if one.name not in ("self", "cls")]
    returns = f" -> {found.returns}" if found.returns is not None else ""
    return [_code(_call(found.name, parameters) + returns), *_docstring(found)]


def _methods(found: Class) -> list[Any]:
    """Public methods and properties with a docstring, those of its base classes last. Deprecated
    names, which give a DeprecationWarning, are hidden.
    """
    members = {**found.members, **found.inherited_members}
    public = [member for name, member in members.items() if not name.startswith("_")]
    resolved = [one.final_target if one.is_alias else one for one in public]
    return [
        one
        for one in resolved
        if (isinstance(one, Function) or "property" in one.labels)
        and one.docstring is not None
        and "DeprecationWarning" not in one.source
    ]


def _fields(found: Class) -> list[Any]:
    """The fields of a dataclass."""
    return [
        griffe.Parameter(one.name, annotation=one.annotation, default=one.value)
        for one in found.members.values()
        if one.is_attribute
        and one.annotation is not None
        and not one.name.startswith("_")
        and "property" not in one.labels
    ]


def _call(name: str, parameters: list[Any]) -> str:
    """A signature, on one line where it fits."""
    given = []
    for one in parameters:
        kind = str(one.kind or "")
        if "keyword-only" in kind and "*" not in given and not any(a[0] == "*" for a in given):
            given.append("*")
        stars = "**" if "variadic keyword" in kind else "*" if "variadic" in kind else ""
        annotation = f": {one.annotation}" if one.annotation is not None else ""
        has_default = one.default is not None and not stars
        given.append(f"{stars}{one.name}{annotation}{f' = {one.default}' if has_default else ''}")
    line = f"{name}({', '.join(given)})"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {one}," for one in given), ")"])


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _docstring(found: Any) -> list[str]:
    if found.docstring is None:
        return []
    parts: list[str] = []
    for part in found.docstring.parse("google", warnings=False):
        if part.kind is DocstringSectionKind.text:
            parts.append(part.value)
        elif part.kind in (DocstringSectionKind.parameters, DocstringSectionKind.attributes):
            rows = [f"| `{one.name}` | {_cell(one.description)} |" for one in part.value]
            parts.append("\n".join(["| argument | |", "|---|---|", *rows]))
        elif part.kind is DocstringSectionKind.returns:
            parts.append("Returns: " + " ".join(_line(one.description) for one in part.value))
        elif part.kind is DocstringSectionKind.yields:
            parts.append("Yields: " + " ".join(_line(one.description) for one in part.value))
        elif part.kind is DocstringSectionKind.raises:
            rows = [f"| `{one.annotation}` | {_cell(one.description)} |" for one in part.value]
            parts.append("\n".join(["| raises | if |", "|---|---|", *rows]))
    return parts


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
