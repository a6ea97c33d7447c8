"""Commands that are imported when they run, not when they are listed.

This module knows no command by name: the table is in app.py.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from typer.core import TyperCommand, TyperGroup

from vlv.cli.command import Command, make_command
from vlv.cli.renamed import notice


class LazyCommand(TyperCommand):
    """A name, a line of help and the place of a function, `package.module:function`."""

    def __init__(self, name: str, target: str, summary: str) -> None:
        super().__init__(name=name, help=summary, short_help=summary)
        self.target = target

    def load(self) -> Command:
        """Import the function and make the real command from its annotations."""
        module, _, function = self.target.partition(":")
        target: Callable[..., None] = getattr(import_module(module), function)
        return make_command(target, self.name)


class LazyGroup(TyperGroup):
    """Lists its commands without importing them; imports the one that is called or completed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "rich_markup_mode": None})
        self._renamed: dict[str, str] = {}
        self._panels: Mapping[str, Sequence[str]] = {}
        self._default: str | None = None

    def add(self, name: str, target: str, summary: str) -> None:
        """Register the command `name`, carried out by `target` (`package.module:function`)."""
        self.add_command(LazyCommand(name, target, summary))

    def rename(self, old: str, new: str) -> None:
        """Let the command `new` answer to its old name too."""
        self._renamed[old] = new

    def default_to(self, name: str) -> None:
        """Have the command `name` run where the first argument names no command."""
        self._default = name

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command behind the first of `args`."""
        asked = args[0].replace("_", "-")
        if asked in self._renamed:
            new = self._renamed[asked]
            if not ctx.resilient_parsing:  # as completion is
                notice(f"{ctx.command_path} {asked}", f"{ctx.command_path} {new}")
            args = [new, *args[1:]]
        elif self._default is not None and asked not in self.commands:
            args = [self._default, *args]
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyCommand):
            command = command.load()
        return name, command, rest

    def arrange(self, panels: Mapping[str, Sequence[str]]) -> None:
        """List the commands in this order under these headings; what is not named comes last."""
        self._panels = panels

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each with its whole line of help."""
        named = {name for names in self._panels.values() for name in names}
        rest = [name for name in self.commands if name not in named]
        for heading, names in {**self._panels, "Commands": rest}.items():
            if names:
                rows = [(name, self.commands[name].help or "") for name in names]
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options of the group."""
        self.format_commands(ctx, formatter)
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record])
