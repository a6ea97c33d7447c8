"""Old names of commands and flags. They keep working; one line names the new one.

This is the only place that knows old names. They appear in no help and no completion.
"""

import typer

# Full path of a command -> its new name in the same group.
COMMANDS = {
    "familiarity": "ood-detector",
    "eval familiarity": "ood",
    "eval self-teach": "self-training",
}
# Flag -> flag, in every command that has the new one.
FLAGS = {"--skip-unfamiliar": "--skip-ood"}


def notice(old: str, new: str) -> None:
    """Say on standard error that `old` has a new name."""
    typer.echo(f"vlv: `{old}` is called `{new}` now", err=True)


def renamed_flags(args: list[str], known: set[str]) -> list[str]:
    """The arguments with old flags replaced by those of the `known` flags that they became."""
    renamed: list[str] = []
    for index, arg in enumerate(args):
        if arg == "--":
            return renamed + args[index:]
        flag, equals, value = arg.partition("=")
        new = FLAGS.get(flag.replace("_", "-"))
        if new is not None and new in known:
            notice(flag, new)
            arg = f"{new}{equals}{value}"
        renamed.append(arg)
    return renamed
