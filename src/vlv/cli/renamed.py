"""Other names of commands and flags: old ones, which keep working while one line names the new one,
and the two names of what a command writes.

This is the only place that knows them. They appear in no help and no completion.
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
# Some commands call it by one name and some by the other; each takes both.
_SAME = {"--out": "--output", "--output": "--out"}


def notice(old: str, new: str) -> None:
    """Say on standard error that `old` has a new name."""
    typer.echo(f"vlv: `{old}` is called `{new}` now", err=True)


def renamed_flags(args: list[str], known: set[str]) -> list[str]:
    """The arguments with other names of flags replaced by those of the `known` flags."""
    renamed: list[str] = []
    for index, arg in enumerate(args):
        if arg == "--":
            return renamed + args[index:]
        flag, equals, value = arg.partition("=")
        flag = flag.replace("_", "-")
        new = FLAGS.get(flag) or (_SAME.get(flag) if flag not in known else None)
        if new is not None and new in known:
            if flag in FLAGS:
                notice(arg.partition("=")[0], new)
            arg = f"{new}{equals}{value}"
        renamed.append(arg)
    return renamed
