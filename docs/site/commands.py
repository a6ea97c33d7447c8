"""The section of the reference for the command line: what `vlv COMMAND --help` says, as tables."""

import re
from html import escape
from typing import Any

import typer

from vlv.cli.app import build
from vlv.cli.lazy import LazyCommand

# What typer puts behind the help of a parameter: "Port.  [default: 8000; 1<=x<=65535]"
_EXTRA = re.compile(r"; (?![^(]*\))")
_EXTRAS = re.compile(r"^(?P<help>.*?)(?:\s*\[(?P<extras>[^\[\]]*)\])?$", re.DOTALL)


def reference() -> str:
    """All commands in Markdown, in the order of their names."""
    return "\n\n".join(
        _section(name, command) for name, command in sorted(_commands(build(), "vlv"))
    )


def _commands(group: Any, path: str) -> list[tuple[str, Any]]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, LazyCommand):
            found.append((f"{path} {name}", command.load()))
        else:
            found += _commands(command, f"{path} {name}")
    return found


def _section(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts = [f"## {name}", f"```text\n{usage}\n```", _paragraphs(command.help or "")]
    rows = []
    for heading, records in command.sections(context).items():
        if heading == "Help":
            continue
        if heading not in ("Arguments", "Options"):
            rows.append(f"| **{heading}** | | | |")
        rows += [_row(*record) for record in records]
    parts.append("\n".join(["| | type | | |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _paragraphs(text: str) -> str:
    return "\n\n".join(escape(" ".join(part.split()), quote=False) for part in text.split("\n\n"))


def _row(names: str, about: str) -> str:
    """A line of the table, out of "-o, --output <path>" and what stands behind it in the help."""
    found = _EXTRAS.fullmatch(" ".join(about.split()))
    assert found is not None
    flags, _, taken = names.partition(" <")
    flags = flags.replace(" / ", "/")
    cells = [
        ", ".join(f"`{flag}`" for flag in re.split(r"[,/] ?", flags)),
        ", ".join(f"`{one}`" for one in taken.removesuffix(">").removesuffix(" range").split("|")),
        _text(found["help"]),
        "<br>".join(_text(one) for one in _EXTRA.split(found["extras"] or "")),
    ]
    return f"| {' | '.join(cell.strip('`') and cell for cell in cells)} |"


def _text(text: str) -> str:
    return escape(text, quote=False).replace("|", "\\|").replace("*", "\\*")
