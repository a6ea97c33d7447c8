"""`vlv eval pairs`: captions of one's own images, measured."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.options import (
    GENERATION,
    INPUT,
    MODEL,
    PERFORMANCE,
    CaptionSeedOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    TemperatureOption,
)
from vlv.text import printable

if TYPE_CHECKING:
    from vlv.evaluation.real.pairs_run import Measured

# Of the widest table.
_WIDTH = 160


def pairs(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SET",
            help="Images with captions: a folder, a .tar shard, a parquet file, a metadata.jsonl.",
            show_default=False,
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A model to caption with, as NAME=MODEL or MODEL: of ours or of transformers. "
            "May be repeated.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option(
            "--captions",
            help="Captions that exist, as NAME=FILE. May be repeated.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            "--clip",
            help="Folder or id of a CLIP, for CLIPScore.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of captions, result and page.")
    ] = Path("vlv-eval-pairs"),
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="Measure the first images only.", rich_help_panel=INPUT
        ),
    ] = None,
    num_beams: Annotated[
        int,
        typer.Option("--num-beams", min=1, help="Beams of the search.", rich_help_panel=GENERATION),
    ] = 4,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="Longest caption, in tokens.",
            rich_help_panel=GENERATION,
        ),
    ] = 300,
    temperature: TemperatureOption = 0.0,
    seed: CaptionSeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", min=1, help="Images per batch.", rich_help_panel=PERFORMANCE),
    ] = 8,
    as_json: JsonOption = False,
) -> None:
    """Measure captions of images that have captions, such as those that a model was fine-tuned on.

    CIDEr, BLEU and ROUGE-L against all captions of an image, CLIPScore, the loss of these captions
    under a model of ours, length, repetition and vocabulary, with intervals; captioners are
    compared over the same images. Writes result.json and a page with the best, worst and random
    captions. The same command continues a run that was interrupted. Images that were left out are
    named, and the exit code is then 1.
    """
    from vlv.cli.common import Failures, progress
    from vlv.evaluation.real.captioners import Generation
    from vlv.evaluation.real.pairs_run import PAGE, RESULT, Settings, measure_pairs
    from vlv.evaluation.results import to_json
    from vlv.inference.records import Refused

    named_models = dict(map(_named_model, models or []))
    files = _named_files(captions or [])
    _check_names([*(_named_model(one)[0] for one in models or []), *files])
    measured = measure_pairs(
        Settings(
            source,
            out,
            named_models,
            files,
            clip,
            limit,
            Generation(num_beams, max_new_tokens, temperature, seed),
            batch_size,
            device,
            dtype,
        ),
        progress,
    )
    failures = Failures(as_json=False)
    if as_json:
        typer.echo(json.dumps(to_json(measured.result), ensure_ascii=False))
    else:
        _print(measured)
        typer.echo(f"{printable(out / RESULT)}, {printable(out / PAGE)}")
    for name, reason in measured.left_out.items():
        failures.add(Refused(name, "left out", reason))
    failures.exit()


def _named_model(text: str) -> tuple[str, str]:
    name, sign, model = text.partition("=")
    if sign and name and model:
        return name, model
    return (Path(text).name or text), text


def _named_files(texts: list[str]) -> dict[str, Path]:
    from vlv.evaluation.real.captions_file import named_file

    found = [named_file(text) for text in texts]
    _check_names([name for name, _ in found])
    return dict(found)


def _check_names(names: list[str]) -> None:
    from vlv.errors import ConfigError

    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"two captioners are called {printable(twice[0])}; name them, as in NAME=MODEL and "
            "NAME=FILE"
        )


def _print(measured: "Measured") -> None:
    from rich.console import Console

    from vlv.evaluation.report.tables import print_result

    console = Console()
    # A file or a pipe has no width to fit into.
    print_result(measured.result, console if console.is_terminal else Console(width=_WIDTH))
