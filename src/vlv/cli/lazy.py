"""Commands that are imported when they run, not when they are listed.

Knows no command by name: `app.py` holds the table.
"""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class LazyCommand(TyperCommand):
    """A name, a line of help and the place of a function, `package.module:function`."""

    def __init__(self, name: str, target: str, summary: str) -> None:
        super().__init__(name=name, help=summary, short_help=summary)
        self.target = target

    def load(self) -> TyperCommand:
        """Import the function and make the real command of its typer annotations."""
        module, _, function = self.target.partition(":")
        app = typer.Typer(add_completion=False)
        app.command(name=self.name)(getattr(import_module(module), function))
        command = typer.main.get_command(app)
        assert isinstance(command, TyperCommand)
        return command


class LazyGroup(TyperGroup):
    """Lists its commands without importing them; imports the one that is called or completed."""

    def add(self, name: str, target: str, summary: str) -> None:
        """Register the command `name`, carried out by `target` (`package.module:function`)."""
        self.add_command(LazyCommand(name, target, summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command behind the first of `args`."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyCommand):
            command = command.load()
        return name, command, rest
