"""The table of commands, and what they share: spelling of flags, errors, exit codes.

A command is a plain function with typer annotations in a module of this package:

    # cli/caption.py
    from vlv.cli.option_groups import InputOptions, ModelOptions

    def caption(inputs: InputOptions, model_options: ModelOptions, as_json: JsonOption = False):
        '''Help text of the command.'''
        from vlv.inference.captioning import ...     # heavy imports inside the function

and one line in `COMMANDS` below. The module is imported when its command runs, is completed, or
is asked for help. Options that several commands share are in options/, and groups of them in
option_groups.py. Old names of commands and flags are in renamed.py.

Flags are declared with dashes; `--num_beams` and `--num-beams` both work everywhere. A `VLVError`
raised by a command becomes one line on standard error and an exit code (see `exit_code`). A command
of whose inputs some failed names them on standard error and raises `typer.Exit(1)`.
"""

import errno
import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from vlv.cli import renamed
from vlv.cli.lazy import LazyGroup
from vlv.errors import (
    BudgetError,
    CheckpointError,
    DatasetError,
    EngineError,
    ImageError,
    TrainingError,
    VLVError,
)
from vlv.text import printable
from vlv.version import __version__

# "group command" -> (module:function, one line of help)
COMMANDS = {
    "demo": ("vlv.cli.demo:demo", "Caption and reconstruct example scenes of the package."),
    "caption": ("vlv.cli.caption:caption", "Caption images."),
    "bulk": ("vlv.cli.bulk:bulk", "Caption large datasets, shard by shard, with resumption."),
    "verify": (
        "vlv.cli.verify:verify",
        "Check which sentences of a caption the image supports.",
    ),
    "encode": ("vlv.cli.encode:encode", "Save the caption embeddings of images."),
    "reconstruct": (
        "vlv.cli.reconstruct:reconstruct",
        "Reconstruct images from their caption embeddings or captions.",
    ),
    "compose": (
        "vlv.cli.reconstruct:compose",
        "Generate one image from the caption embeddings of two.",
    ),
    "serve": ("vlv.cli.serve:serve", "Serve captions and images over HTTP."),
    "finetune": (
        "vlv.cli.finetune:finetune",
        "Fine-tune a captioner on your own images and captions.",
    ),
    "train": ("vlv.cli.train:train", "Run one stage of training."),
    "cost": ("vlv.cli.cost:cost", "Print what a training run will take, before it is run."),
    "export run": ("vlv.cli.export:run", "Write a model folder from a checkpoint of a run."),
    "export gguf": (
        "vlv.cli.export:gguf",
        "Write a model folder for captions by llama.cpp.",
    ),
    "export onnx": ("vlv.cli.export:onnx", "Write the encoder as an ONNX file."),
    "reproduce": (
        "vlv.cli.reproduce:reproduce",
        "Measure the claims of the paper and write a report, or train the mini model.",
    ),
    "eval mini": ("vlv.cli.evaluate:mini", "Evaluate a mini model on held-out scenes."),
    "eval captions": (
        "vlv.cli.eval_real.captions:captions",
        "Caption a set of real images once, by any captioner.",
    ),
    "eval pairs": (
        "vlv.cli.eval_real.pairs:pairs",
        "Measure captions of your own images: CIDEr, BLEU, ROUGE-L, CLIPScore, loss.",
    ),
    "eval coco-fid": (
        "vlv.cli.eval_real.coco_fid:coco_fid",
        "Pictures drawn from captions, by FID to the real images (table 1).",
    ),
    "eval fidelity": (
        "vlv.cli.eval_real.fidelity:fidelity",
        "Pictures drawn from captions, by likeness to their originals.",
    ),
    "eval reconstruction": (
        "vlv.cli.eval_real.reconstruction:reconstruction",
        "Reconstructions of real images: FID, LPIPS, PSNR, SSIM, DINO (tables 4 and 5).",
    ),
    "eval export": (
        "vlv.cli.eval_real.export:export",
        "Write captions in the form of a benchmark: CaptionQA, CompreCap, and others.",
    ),
    "eval fid": (
        "vlv.cli.evaluate:table",
        "Images generated from captions of several sources (table 1).",
    ),
    "eval arena": (
        "vlv.cli.eval_real.arena:arena",
        "Captions rated from 0 to 6, or compared in pairs (table 2).",
    ),
    "eval vqa": (
        "vlv.cli.eval_real.vqa:vqa",
        "Questions answered from captions only (table 3).",
    ),
    "eval boxes3d": (
        "vlv.cli.eval_real.boxes3d:boxes3d",
        "3D boxes of real images and of pictures drawn from their embeddings (table 6).",
    ),
    "eval queries": ("vlv.cli.evaluate:table", "Reconstruction by number of queries (table 4)."),
    "eval trainable": (
        "vlv.cli.evaluate:table",
        "Captions by what stage 2 trains (table 4).",
    ),
    "eval data-scale": (
        "vlv.cli.evaluate:table",
        "Reconstruction by images seen in stage 1 (tables 5 and 6).",
    ),
    "eval lm-scale": (
        "vlv.cli.evaluate:table",
        "Captions by size of the language model (table 5).",
    ),
    "eval no-stage1": (
        "vlv.cli.evaluate:table",
        "Captions by number of pairs, with and without stage 1 (table 7).",
    ),
    "eval nested": (
        "vlv.cli.evaluate:table",
        "Images and captions from the first embeddings, with nested training and without.",
    ),
    "eval decoders": (
        "vlv.cli.evaluate:table",
        "A flow transformer against a U-Net as the decoder that teaches the encoder.",
    ),
    "eval preferences": (
        "vlv.cli.evaluate:table",
        "A caption decoder with few pairs that learns from words that the decoder judges.",
    ),
    "eval compose": ("vlv.cli.evaluate:table", "Images composed of two embeddings (figure 6)."),
    "eval bottleneck": (
        "vlv.cli.evaluate:table",
        "Which facts can be decoded from image tokens, z and c.",
    ),
    "eval self-training": (
        "vlv.cli.evaluate:table",
        "Self-training of a caption decoder that has few pairs.",
    ),
    "eval verify": (
        "vlv.cli.eval_real.verify:verify",
        "How well wrong sentences are found: on real images with labels, or in the world.",
    ),
    "eval ood": ("vlv.cli.evaluate:table", "How well out-of-distribution images are found."),
    "eval renderer": (
        "vlv.cli.evaluate:table",
        "How well wrong sentences are found on pictures of another renderer.",
    ),
    "eval cost": ("vlv.cli.evaluate:table", "Time, compute and money of every stage."),
    "assemble": (
        "vlv.cli.assemble:assemble",
        "Write an untrained model folder out of published models.",
    ),
    "convert authors": (
        "vlv.cli.convert:authors",
        "Convert a checkpoint of the paper's authors into a model folder.",
    ),
    "convert to-authors": (
        "vlv.cli.convert:to_authors",
        "Convert a model folder into a checkpoint of the paper's authors.",
    ),
    "ood-detector": (
        "vlv.cli.fitting:ood_detector",
        "Fit a detector of out-of-distribution images to a model folder.",
    ),
    "verifier": (
        "vlv.cli.fitting:verifier",
        "Fit the verifier of sentences to a model folder.",
    ),
    "models": ("vlv.cli.models:models", "List the known models."),
    "doctor": ("vlv.cli.doctor:doctor", "Show versions, devices, memory, and what is missing."),
    "data curate": (
        "vlv.cli.data.curate:curate",
        "Select images or links, and report what was dropped and why.",
    ),
    "data inspect": (
        "vlv.cli.data.inspect:inspect",
        "Count and show what a dataset holds.",
    ),
    "data sentence-labels": (
        "vlv.cli.data.sentence_labels:sentence_labels",
        "Read sentence labels that people gave in FiftyOne or Label Studio.",
    ),
    "data convert": (
        "vlv.cli.data.convert:convert",
        "Convert a dataset to another layout, size or image format.",
    ),
    "data split": ("vlv.cli.data.split:split", "Divide a dataset into parts."),
    "data merge": ("vlv.cli.data.merge:merge", "Write several datasets as one."),
    "data caption": ("vlv.cli.data.caption:caption", "Caption a dataset by a teacher model."),
    "data index": ("vlv.cli.data.index:index", "Index the shards of a dataset for training."),
    "data latents": (
        "vlv.cli.data.latents:latents",
        "Cache the latents of a dataset for training.",
    ),
    "data preferences": (
        "vlv.cli.data.preferences:preferences",
        "Let the decoder judge words of a model's own captions, for training.",
    ),
    "world render": ("vlv.cli.world:render", "Write a dataset of rendered scenes with captions."),
}
GROUPS = {
    "data": "Prepare datasets for training.",
    "eval": "Evaluate models: in the embedded world, and on real images.",
    "export": "Write models in other forms: a run's checkpoint, GGUF, ONNX.",
    "convert": "Convert from and to checkpoints of the paper's authors.",
    "world": "Datasets of the embedded world.",
}
# Of `--quantize`.
_NAMES_OF_VALUES = ("q8_0", "q4_k_m")
# Headings of `vlv --help`.
_PANELS = {
    "Captions and images": (
        *("demo", "caption", "bulk", "verify", "encode", "reconstruct", "compose", "serve"),
    ),
    "Training and evaluation": (
        *("finetune", "train", "cost", "export", "reproduce", "eval", "data", "world"),
    ),
    "Models": ("models", "assemble", "convert", "ood-detector", "verifier", "doctor"),
}

_PACKAGE = Path(__file__).parents[1]

# Errors in what a command was given to work on, and of programs that it works with.
_INPUT_ERRORS = (ImageError, DatasetError, TrainingError, EngineError)


def exit_code(error: VLVError) -> int:
    """1 if an input or a run failed, 3 if the model cannot be opened (it is missing or damaged,
    or the Hub does not answer), 4 if a run has spent its budget, 2 if the command was used wrongly.
    """
    if isinstance(error, BudgetError):
        return 4
    if isinstance(error, CheckpointError):
        return 3
    return 1 if isinstance(error, _INPUT_ERRORS) else 2


def _describe(error: OSError) -> str:
    """What the system refused, such as a full disk or a folder without permission."""
    where = f"{error.filename}: " if error.filename else ""
    advice = "; free some space and run it again" if error.errno == errno.ENOSPC else ""
    return f"{where}{error.strerror or error}{advice}"


class _Root(LazyGroup):
    """The `vlv` command: turns errors into a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except VLVError as error:
            typer.echo(f"vlv: {printable(str(error))}", err=True)
            raise typer.Exit(exit_code(error)) from error
        except BrokenPipeError:
            raise  # the reader of the output has gone; click ends quietly
        except OSError as error:
            typer.echo(f"vlv: {printable(_describe(error))}", err=True)
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
    """Vision-Language-Vision auto-encoder: captions of images, and images from embeddings.

    Every command explains itself: vlv COMMAND --help
    """


def _as_flags_are_spelt(token: str) -> str:
    """Both spellings of a flag mean the same; values with an underscore are names of llama.cpp."""
    return token if token in _NAMES_OF_VALUES else token.replace("_", "-")


def build() -> LazyGroup:
    """The command `vlv` with everything registered and nothing imported."""
    settings = {
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "token_normalize_func": _as_flags_are_spelt,
    }
    app = typer.Typer(cls=_Root, name="vlv", no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback(context_settings=settings)(_root)
    root = typer.main.get_group(app)
    root.params.extend(typer.main.get_install_completion_arguments())
    assert isinstance(root, LazyGroup)
    groups = {
        name: LazyGroup(name=name, help=summary, no_args_is_help=True)
        for name, summary in GROUPS.items()
    }
    for path, (target, summary) in COMMANDS.items():
        *group, name = path.split()
        (groups[group[0]] if group else root).add(name, target, summary)
    # `vlv export RUN` came first.
    groups["export"].default_to("run")
    for sub_group in groups.values():
        root.add_command(sub_group)
    for path, new in renamed.COMMANDS.items():
        *group, old = path.split()
        (groups[group[0]] if group else root).rename(old, new)
    root.arrange(_PANELS)
    return root


_show_as_python_does = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of this package as the line that its errors are, without a place in its code."""
    if category is UserWarning and Path(filename).is_relative_to(_PACKAGE):
        typer.echo(f"vlv: warning: {printable(str(message))}", err=True)
    else:
        _show_as_python_does(message, category, filename, lineno, file, line)


def _fill_closed_streams() -> None:
    """Let standard streams that are closed lead nowhere: a file that is opened would take the place
    of one, and libraries would write into it. For Python, input and output stay closed.
    """
    place = os.open(os.devnull, os.O_RDWR)
    while place <= 2:
        os.set_inheritable(place, True)
        place = os.open(os.devnull, os.O_RDWR)
    os.close(place)
    if sys.stderr is None:
        # tqdm would write to standard output in its place.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def main(args: list[str] | None = None) -> None:
    """Entry point of the `vlv` script; exits the process."""
    if sys.platform == "win32":  # file locks and limits of memory are those of POSIX
        typer.echo(
            "vlv: Windows is not supported; install vlv in WSL 2, and run it there", err=True
        )
        sys.exit(2)
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A name or a caption that the console cannot show is escaped and stops no work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    sys.exit(build()(args, prog_name="vlv"))
