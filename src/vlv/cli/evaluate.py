"""`vlv eval ...`: measures models and prints what was measured."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlv.cli.common import was_given
from vlv.cli.options.files import JsonOption

if TYPE_CHECKING:
    from vlv.evaluation.results import Result

# Of the widest table.
_WIDTH = 180

OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="key=value: fields to set, such as count=200 or model=FOLDER."),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="A YAML file of fields.")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The file of the result; vlv-eval-NAME.json by default."),
]


def table(
    context: typer.Context,
    overrides: OverridesArgument = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure one counterpart of the paper's tables in the embedded world.

    Prints the table with the verdicts on the paper's claims, or with --json the result, and writes
    the result with its provenance to a file. The page on evaluation lists the fields.
    """
    from vlv.cli.common import progress
    from vlv.evaluation.registry import table as find
    from vlv.evaluation.results import to_json
    from vlv.files import write_text
    from vlv.training.config import load_config

    found = find(str(context.info_name))
    output = output or Path(f"vlv-eval-{found.name}.json")
    settings = load_config(found.config, config or found.config_file, overrides)
    _check_output(output)
    result = found.evaluate(settings, progress)
    text = json.dumps(to_json(result), indent=2, ensure_ascii=False)
    # Printed first, so that a file that cannot be written loses no figures.
    if as_json:
        typer.echo(text)
    else:
        print_tables(result)
    write_text(output, text + "\n")


def _old(flag: str, **settings: Any) -> Any:
    """A flag that `vlv eval mini` had before it took fields as key=value."""
    return typer.Option(flag, hidden=True, **settings)


@dataclass(frozen=True)
class OldFlags:
    """The hidden flags of `vlv eval mini`."""

    model: Annotated[str | None, _old("--model", envvar="VLV_MODEL")] = None
    count: Annotated[str | None, _old("--count")] = None
    seed: Annotated[str | None, _old("--seed")] = None
    split: Annotated[str | None, _old("--split")] = None
    stage1: Annotated[str | None, _old("--stage1")] = None
    inspector: Annotated[str | None, _old("--inspector")] = None
    guidance_scale: Annotated[list[str] | None, _old("--guidance-scale")] = None
    scheduler: Annotated[str | None, _old("--scheduler")] = None
    num_inference_steps: Annotated[str | None, _old("--num-inference-steps")] = None
    mixed_precision: Annotated[str | None, _old("--mixed-precision")] = None
    num_beams: Annotated[str | None, _old("--num-beams")] = None
    batch_size: Annotated[str | None, _old("--batch-size")] = None
    num_threads: Annotated[str | None, _old("--num-threads")] = None
    device: Annotated[str | None, _old("--device")] = None


def mini(
    context: typer.Context,
    overrides: OverridesArgument = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    old: OldFlags = OldFlags(),
) -> None:
    """Measure a mini model on held-out scenes: pictures, captions, controls and thresholds.

    Prints tables, or with --json the result, and writes the result with its provenance to a file.
    About 20 minutes on two cores at the default count. The page on evaluation lists the fields.
    """
    given = {name: value for name, value in vars(old).items() if value not in (None, [])}
    if scales := given.get("guidance_scale"):
        # The first one was drawn on all scenes, and all were compared on the first of them.
        given |= {"guidance_scale": scales[0], "guidance_sweep": scales}
    if any(was_given(context, name) for name in given):
        fields = " ".join(name for name in given)
        typer.echo(f"vlv: flags of `vlv eval mini` are key=value now: {fields}", err=True)
    fields_of_flags = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    table(context, [*fields_of_flags, *(overrides or [])], config, output, as_json)


def _check_output(output: Path) -> None:
    """Before the work rather than after it. An older result may be replaced, nothing else."""
    from vlv.errors import ConfigError

    if output.is_dir():
        raise ConfigError(f"--output names the folder {output}; name a file for the JSON")
    if output.exists() and not _is_result(output):
        raise ConfigError(f"--output names {output}, which is no result; name another file")
    output.parent.mkdir(parents=True, exist_ok=True)


def _is_result(path: Path) -> bool:
    from vlv.errors import ConfigError
    from vlv.text import read_object

    try:
        return "provenance" in read_object(path, ConfigError)
    except ConfigError:
        return False


def print_tables(result: "Result") -> None:
    """Print the tables of a result on the console."""
    from rich.console import Console

    from vlv.evaluation.report.tables import print_result

    console = Console()
    # A file or a pipe has no width to fit into.
    print_result(result, console if console.is_terminal else Console(width=_WIDTH))
