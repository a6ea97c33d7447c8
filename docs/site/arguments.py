"""For the reference: a table of arguments for whatever takes arguments, out of its signature.

Docstrings here name an argument where there is something to say of it. A table that a docstring
has is left as it is; otherwise names, types and defaults are those of the code.
"""

import re
from typing import Any

from griffe import (
    Alias,
    Attribute,
    Class,
    Docstring,
    DocstringParameter,
    DocstringSectionKind,
    DocstringSectionParameters,
    DocstringSectionText,
    Extension,
    Function,
    Module,
    Parameter,
)


class Arguments(Extension):
    """Adds the tables once a package is loaded."""

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Go through all that the package holds."""
        _fill(pkg)


def _fill(holder: Module | Class) -> None:
    for member in holder.members.values():
        if isinstance(member, Alias) or member.name.startswith("_"):
            continue
        if isinstance(member, Function):
            _add(member, _of_signature(member))
        elif isinstance(member, Class):
            _add(member, _of_class(member))
            _fill(member)
        elif isinstance(member, Module):
            _fill(member)


def _add(member: Function | Class, arguments: list[DocstringParameter]) -> None:
    docstring = member.docstring
    if docstring is None or not arguments:
        return
    sections = docstring.parsed
    if any(section.kind is DocstringSectionKind.parameters for section in sections):
        return
    texts = [isinstance(section, DocstringSectionText) for section in sections]
    for section in sections:
        if isinstance(section, DocstringSectionText):
            section.value = _as_code(section.value, [argument.name for argument in arguments])
    after_text = texts.index(False) if False in texts else len(sections)
    table = DocstringSectionParameters(arguments)
    _replace(docstring, [*sections[:after_text], table, *sections[after_text:]])


def _as_code(text: str, names: list[str]) -> str:
    """The text with arguments as code where they are told from words: `a_b`, and `name:`."""
    told = [re.escape(name) if "_" in name else f"{re.escape(name)}(?=: )" for name in names]
    return re.sub(rf"(?<![`\w.])({'|'.join(told)})(?![`\w])", r"`\1`", text)


def _replace(docstring: Docstring, sections: list[Any]) -> None:
    docstring.__dict__["parsed"] = sections  # where the cached property keeps them


def _of_signature(function: Function) -> list[DocstringParameter]:
    return [
        _argument(given.name, given)
        for given in function.parameters
        if given.name not in ("self", "cls")
    ]


def _of_class(found: Class) -> list[DocstringParameter]:
    """The arguments of its `__init__`, or the fields of a dataclass or a pydantic model."""
    init = found.members.get("__init__")
    if isinstance(init, Function):
        return _of_signature(init)
    fields = [
        member
        for member in found.members.values()
        if isinstance(member, Attribute)
        and member.annotation is not None
        and not member.name.startswith("_")
        and "property" not in member.labels
    ]
    return [
        DocstringParameter(
            field.name,
            annotation=field.annotation,
            description=field.docstring.value if field.docstring else "",
            value=field.value,
        )
        for field in fields
    ]


def _argument(name: str, given: Parameter) -> DocstringParameter:
    return DocstringParameter(
        name, annotation=given.annotation, description="", value=given.default
    )
