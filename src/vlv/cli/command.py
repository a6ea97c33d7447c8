"""How a function becomes a command: option groups are flattened, and help is plain text.

A parameter whose type is a dataclass of options (option_groups.py) stands for the options that are
its fields; the function receives an instance. Help lists options under the headings of their
`rich_help_panel`, and never shortens a flag, however narrow the terminal is.
"""

import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand

from vlv.cli.options.headings import HEADINGS
from vlv.cli.renamed import renamed_flags
from vlv.text import printable

# Of all that is wrong with a command line; this one is named by no public module.
_UsageError: Any = typer.BadParameter.__base__
_ARGUMENTS, _OPTIONS, _HELP = "Arguments", "Options", "Help"


class Command(TyperCommand):
    """A command with headings in its help; it accepts old names of its flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, old flags among them. Refuses numbers that are not finite, and empty
        names of files, such as those of a shell's variable that is not set: they would stand for
        the current folder. Says how a file is written whose name begins with a dash.
        """
        known = {flag for param in self.params for flag in (*param.opts, *param.secondary_opts)}
        words, params = set(args), list[Any](self.params)
        hint = _dashed_file(args, known)
        try:
            rest = super().parse_args(ctx, renamed_flags(args, known))
        except _UsageError as error:
            if type(error).__name__ == "NoSuchOption":
                error.message += hint
            raise
        for param in params:
            value = ctx.params.get(param.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise typer.BadParameter(f"{value} is not a finite number.", ctx, param)
            names = value if isinstance(value, list | tuple) else [value]
            is_empty = "" in words and not words & {".", "./"} and ("" in names or Path() in names)
            if is_empty and param.param_type_name == "argument":
                raise typer.BadParameter("The name is empty.", ctx, param)
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading."""
        for heading, records in self.sections(ctx).items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """Each heading with its arguments or options: the names, and what the help says."""
        sections: dict[str, list[tuple[str, str]]] = {
            heading: [] for heading in (_ARGUMENTS, _OPTIONS, *HEADINGS, _HELP)
        }
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections[_heading_of(param)].append(record)
        return {heading: records for heading, records in sections.items() if records}


def _dashed_file(args: Sequence[str], known: Collection[str]) -> str:
    """A hint at the first file whose name looks like a flag, as `*.png` gives it; empty if there is
    none.
    """
    words = args[: args.index("--")] if "--" in args else args
    dashed = (word for word in words if word[:1] == "-" and word not in known)
    name = next((word for word in dashed if os.path.isfile(word)), None)
    if name is None:
        return ""
    return f"; a file has the name {printable(name)}: write ./{printable(name)}, or -- before it"


def _heading_of(param: Any) -> str:
    if param.param_type_name == "argument":
        return _ARGUMENTS
    if param.name == "help":
        return _HELP
    return param.rich_help_panel or _OPTIONS


def make_command(function: Callable[..., None], name: str | None) -> Command:
    """The command that calls `function`."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name=name, cls=Command)(_flattened(function))
    command = typer.main.get_command(app)
    assert isinstance(command, Command)
    return command


def _flattened(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with each dataclass of options replaced by its fields."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[Parameter] = []
    for parameter in signature(function).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            groups[parameter.name] = kind
            parameters += _parameters_of(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=Parameter.KEYWORD_ONLY))

    @wraps(function)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            given = {field.name: values.pop(field.name) for field in fields(group)}
            values[name] = group(**given)
        function(**values)

    del call.__dict__["__wrapped__"]  # its signature is not that of the command
    call.__dict__["__signature__"] = Signature(parameters)
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


def _parameters_of(group: Any) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
