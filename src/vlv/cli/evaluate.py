"""`vlv eval ...`: measures models and prints what was measured."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vlv.cli.options import (
    DEFAULT_MODEL,
    DeviceOption,
    JsonOption,
    ModelOption,
    NumInferenceStepsOption,
    SchedulerOption,
    SeedOption,
)

# Of the widest table.
_WIDTH = 180


def mini(
    model: ModelOption = DEFAULT_MODEL,
    count: Annotated[int, typer.Option("--count", min=2, help="Number of scenes.")] = 1000,
    seed: SeedOption = 0,
    split: Annotated[
        Literal["test", "unseen-pairs", "unseen-counts"],
        typer.Option("--split", help="Which held-out scenes."),
    ] = "test",
    stage1: Annotated[
        str | None,
        typer.Option("--stage1", help="A stage-1 model, measured as the encoder before stage 2."),
    ] = None,
    inspector: Annotated[
        str | None,
        typer.Option("--inspector", help="Folder of another inspector than the package's."),
    ] = None,
    guidance_scale: Annotated[
        list[float] | None,
        typer.Option(
            "--guidance-scale",
            help="Once for each scale: the first on all scenes, with the controls. 2, 1, 3 and 4 "
            "if none is given.",
        ),
    ] = None,
    scheduler: SchedulerOption = "dpm++",
    num_inference_steps: NumInferenceStepsOption = 12,
    mixed_precision: Annotated[
        Literal["no", "bf16", "auto"],
        typer.Option(
            "--mixed-precision", help="Of drawing; auto is bf16 where the device computes in it."
        ),
    ] = "auto",
    num_beams: Annotated[int, typer.Option("--num-beams", min=1, help="Beams of captions.")] = 4,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Scenes at a time.")] = 50,
    num_threads: Annotated[
        int | None,
        typer.Option("--num-threads", min=1, help="CPU threads; torch's choice if not given."),
    ] = None,
    device: DeviceOption = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file of the report as JSON.")
    ] = Path("vlv-eval-mini.json"),
    as_json: JsonOption = False,
) -> None:
    """Measure a mini model on held-out scenes: pictures, captions, controls and floors.

    Prints tables, or with --json the report, and writes the report with its provenance to a file.
    About 20 minutes on two cores at the default count.
    """
    from vlv.cli.common import progress
    from vlv.evaluation.mini import MiniOptions, evaluate_mini
    from vlv.evaluation.report import print_report, to_json

    scales = {"guidance_scales": tuple(guidance_scale)} if guidance_scale else {}
    options = MiniOptions(
        model=model,
        stage1=stage1,
        inspector=inspector,
        count=count,
        seed=seed,
        split=split,
        scheduler=scheduler,
        num_inference_steps=num_inference_steps,
        mixed_precision=mixed_precision,
        num_beams=num_beams,
        batch_size=batch_size,
        device=device,
        num_threads=num_threads,
        **scales,
    )
    _check_output(output)
    report = evaluate_mini(options, progress)
    _tell(to_json(report), partial(print_report, report), output, as_json)


def table(
    context: typer.Context,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value: fields to set, such as count=200 or model=FOLDER."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of fields.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file of the result; vlv-eval-NAME.json."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure one counterpart of the paper's tables in the embedded world.

    Prints the table, with what it says of the paper's claims, or with --json the result, and
    writes the result with its provenance to a file. The page on evaluation lists the fields.
    """
    from vlv.cli.common import progress
    from vlv.evaluation.registry import table as find
    from vlv.evaluation.report import print_result
    from vlv.evaluation.results import to_json
    from vlv.training.config import load_config

    name = str(context.info_name)
    output = output or Path(f"vlv-eval-{name}.json")
    found = find(name)
    settings = load_config(found.config, config or found.config_file, overrides)
    _check_output(output)
    result = found.evaluate(settings, progress)
    _tell(to_json(result), partial(print_result, result), output, as_json)


def _check_output(output: Path) -> None:
    """Now rather than after all the work. An older result may be replaced, nothing else."""
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


def _tell(data: Any, show: Callable[[Any], None], output: Path, as_json: bool) -> None:
    """Print and write; printed first, so that a file that cannot be written costs no figures."""
    from rich.console import Console

    from vlv.files import atomic_file

    text = json.dumps(data, indent=2, ensure_ascii=False)
    if as_json:
        typer.echo(text)
    else:
        console = Console()
        # A file or a pipe has no width to fit into.
        show(console if console.is_terminal else Console(width=_WIDTH))
    with atomic_file(output) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")
