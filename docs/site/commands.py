"""For the reference of the command line: what `vlv COMMAND --help` says, as tables.

mkdocs calls `on_page_markdown` for every page; the mark in reference/cli.md becomes the commands.
"""

import re
from html import escape
from typing import Any

import typer

from vlv.cli.app import build
from vlv.cli.lazy import LazyCommand

MARK = "<!-- commands -->"
# What typer puts behind the help of a parameter: "Port.  [default: 8000; 1<=x<=65535]"
_EXTRAS = re.compile(r"^(?P<help>.*?)(?:\s*\[(?P<extras>[^\[\]]*)\])?$", re.DOTALL)


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """The page with its mark replaced, and any other page as it is."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def reference() -> str:
    """All commands in Markdown, in the order of their names."""
    return "\n\n".join(_section(name, command) for name, command in sorted(_commands(build(), "vlv")))


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
    records = [param.get_help_record(context) for param in command.params]
    rows = [_row(*record) for record in records if record]
    parts = [f"## {name}", f"```text\n{usage}\n```", _paragraphs(command.help or "")]
    if rows:
        parts.append("\n".join(["| | | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _paragraphs(text: str) -> str:
    return "\n\n".join(escape(" ".join(part.split()), quote=False) for part in text.split("\n\n"))


def _row(names: str, about: str) -> str:
    found = _EXTRAS.fullmatch(" ".join(about.split()))
    assert found is not None
    flags = names.replace(" range>", ">").replace("|", "\\|")
    extras = (found["extras"] or "").replace("; ", "<br>") if found["extras"] else ""
    extras = "<br>".join(escape(one, quote=False) for one in extras.split("<br>"))
    help = escape(found["help"], quote=False).replace("|", "\\|")
    return f"| `{flags}` | {help} | {extras} |"
