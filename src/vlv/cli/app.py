"""The table of commands, and what all of them share: flags' spelling, errors, exit codes.

Wiring. A command is a plain function with typer annotations in a module of this package:

    # cli/caption.py
    import typer
    from vlv.cli.options import ModelOption

    def caption(paths: Annotated[list[Path], typer.Argument(...)], model: ModelOption = "vlv-mini"):
        '''Help text of the command.'''
        from vlv.inference.captioning import ...     # heavy imports inside the function

and one line in `COMMANDS` below. The module is imported when its command runs, is completed, or
is asked for help. Flags are declared with dashes (typer's default); `--num_beams` and
`--num-beams` both work everywhere. A `VLVError` raised by a command becomes one line on standard
error and exit code 2 (wrong use) or 1 (an input or a run failed); a command whose inputs failed in
part names them on standard error and raises `typer.Exit(1)`.
"""

import io
import sys
from typing import Annotated, Any

import typer

from vlv.cli.lazy import LazyGroup
from vlv.errors import CheckpointError, DatasetError, ImageError, TrainingError, VLVError
from vlv.text import printable
from vlv.version import __version__

# "group command" -> (module:function, one line of help)
COMMANDS = {
    "demo": ("vlv.cli.demo:demo", "Caption and reconstruct bundled example scenes."),
    "caption": ("vlv.cli.caption:caption", "Write captions of images."),
    "bulk": ("vlv.cli.bulk:bulk", "Write captions of very many images."),
    "verify": (
        "vlv.cli.verify:verify",
        "Tell which sentences of captions the pictures support.",
    ),
    "encode": ("vlv.cli.encode:encode", "Save the caption embeddings of images."),
    "reconstruct": (
        "vlv.cli.reconstruct:reconstruct",
        "Draw images again from their caption embeddings, or from their captions.",
    ),
    "compose": ("vlv.cli.reconstruct:compose", "Draw one image from the embeddings of two."),
    "train": ("vlv.cli.train:train", "Run one stage of training."),
    "reproduce": (
        "vlv.cli.reproduce:reproduce",
        "Measure the paper's claims and write a report; or train a mini model anew.",
    ),
    "eval mini": ("vlv.cli.evaluate:mini", "Measure a mini model on held-out scenes."),
    "eval fid": (
        "vlv.cli.evaluate:table",
        "Pictures drawn from captions of several sources (table 1).",
    ),
    "eval vqa": ("vlv.cli.evaluate:table", "Questions answered from captions alone (table 3)."),
    "eval arena": ("vlv.cli.evaluate:table", "Captions on the paper's scale of 0 to 6 (table 2)."),
    "eval compose": ("vlv.cli.evaluate:table", "Pictures out of two embeddings (figure 6)."),
    "eval bottleneck": (
        "vlv.cli.evaluate:table",
        "Which facts can be read out of image tokens, z and c.",
    ),
    "eval no-stage1": (
        "vlv.cli.evaluate:table",
        "Captions by number of pairs, with stage 1 and without (table 7).",
    ),
    "eval self-training": (
        "vlv.cli.evaluate:table",
        "A captioner with few pairs taught by the decoder, and otherwise.",
    ),
    "eval queries": ("vlv.cli.evaluate:table", "Reconstruction by number of queries (table 4)."),
    "eval data-scale": (
        "vlv.cli.evaluate:table",
        "Reconstruction by images seen in stage 1 (tables 5 and 6).",
    ),
    "eval trainable": ("vlv.cli.evaluate:table", "Captions by what stage 2 trains (table 4)."),
    "eval lm-scale": (
        "vlv.cli.evaluate:table",
        "Captions by size of the language model (table 5).",
    ),
    "eval cost": ("vlv.cli.evaluate:table", "Time, computation and money of every stage."),
    "convert authors": (
        "vlv.cli.convert:authors",
        "Make a model folder out of a checkpoint of the paper's authors.",
    ),
    "convert to-authors": (
        "vlv.cli.convert:to_authors",
        "Write a model folder as a checkpoint of the paper's authors.",
    ),
    "ood-detector": (
        "vlv.cli.ood_detector:ood_detector",
        "Tell a model folder which pictures it knows.",
    ),
    "eval verify": (
        "vlv.cli.evaluate:table",
        "How well the decoder finds wrong sentences.",
    ),
    "verifier": (
        "vlv.cli.verifier:verifier",
        "Tell a model folder what true sentences look like to it.",
    ),
    "eval ood": (
        "vlv.cli.evaluate:table",
        "Whether pictures unlike those of training are told apart.",
    ),
    "world render": ("vlv.cli.world:render", "Write a set of rendered scenes with captions."),
    "serve": ("vlv.cli.serve:serve", "Serve captions and pictures over HTTP."),
    "models": ("vlv.cli.models:models", "List the known models."),
    "doctor": ("vlv.cli.doctor:doctor", "Show versions, devices, memory and what is missing."),
}
GROUPS = {
    "convert": "Between model folders and the authors' checkpoints.",
    "eval": "Measure models against the truth.",
    "world": "The embedded world of rendered scenes.",
}

# Failures of what a command was given to work on.
_INPUT_ERRORS = (ImageError, DatasetError, TrainingError)


def exit_code(error: VLVError) -> int:
    """1 when an input or a run failed, 3 when the model cannot be opened (it is missing, damaged,
    or on a Hub that does not answer), 2 when the command was used wrongly.
    """
    if isinstance(error, CheckpointError):
        return 3
    return 1 if isinstance(error, _INPUT_ERRORS) else 2


def _os_fault(error: OSError) -> str:
    """What the system refused, such as a full disk or a folder without permission."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


class _Root(LazyGroup):
    """The `vlv` command: turns `VLVError` into a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except VLVError as error:
            typer.echo(f"vlv: {printable(str(error))}", err=True)
            raise typer.Exit(exit_code(error)) from error
        except BrokenPipeError:
            raise  # whoever read the output has gone; click ends quietly
        except OSError as error:
            typer.echo(f"vlv: {printable(_os_fault(error))}", err=True)
            raise typer.Exit(1) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vlv {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Vision-Language-Vision: captions of images, and images out of caption embeddings."""


def build() -> LazyGroup:
    """The command `vlv` with everything registered and nothing imported."""
    settings = {
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    }
    app = typer.Typer(cls=_Root, name="vlv", no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback(context_settings=settings)(_root)
    root = typer.main.get_group(app)
    completion = typer.main.get_install_completion_arguments()
    root.params.extend(completion)
    assert isinstance(root, LazyGroup)
    groups = {
        name: LazyGroup(name=name, help=summary, no_args_is_help=True)
        for name, summary in GROUPS.items()
    }
    for path, (target, summary) in COMMANDS.items():
        *group, name = path.split()
        (groups[group[0]] if group else root).add(name, target, summary)
    for sub_group in groups.values():
        root.add_command(sub_group)
    return root


def main(args: list[str] | None = None) -> None:
    """Entry point of the `vlv` script; exits the process."""
    for stream in (sys.stdout, sys.stderr):
        # A name or a caption that the console cannot show is escaped, and stops no work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(build()(args, prog_name="vlv"))
