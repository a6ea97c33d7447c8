"""`vlv convert authors` and `vlv convert to-authors`."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.options import JsonOption, OverwriteOption

_PART_HELP = "Base model {}: an id on the Hub or a folder, of which configs and tokenizer are read."


def authors(
    source: Annotated[
        Path,
        typer.Argument(help="A .safetensors or .pt file, or a folder with one or with shards."),
    ],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    encoder: Annotated[
        str | None, typer.Option("--encoder", help=_PART_HELP.format("of the encoder (Florence-2)"))
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option("--decoder", help=_PART_HELP.format("of the decoder (Stable Diffusion)")),
    ] = None,
    language_model: Annotated[
        str | None,
        typer.Option("--language-model", help=_PART_HELP.format("of the captioner (Qwen2.5)")),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option("--dtype", help="Of the written weights; the source's if not given."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model folder out of a checkpoint of the paper's authors, of stage 1 or 2.

    Every tensor is used or named with the reason; one that is unknown, missing or of another shape
    is an error. PyTorch files are read without running anything in them.
    """
    _refuse_existing(out, overwrite)
    import torch

    from vlv.checkpoints.authors.conversion import convert_authors

    report = convert_authors(
        source,
        out,
        encoder=encoder,
        decoder=decoder,
        language_model=language_model,
        dtype=None if dtype is None else getattr(torch, dtype),
    )
    if as_json:
        told = {
            "out": str(out),
            "stage": report.stage,
            "components": report.components,
            "tensors": report.tensors,
            "unused": report.unused,
        }
        typer.echo(json.dumps(told))
        return
    typer.echo(
        f"{out}: {', '.join(report.components)}, from {report.tensors} tensors of a checkpoint of "
        f"stage {report.stage}"
    )
    for reason, count in Counter(report.unused.values()).items():
        typer.echo(f"  {count} not needed: {reason}")


def to_authors(
    model: Annotated[str, typer.Argument(help="Model folder or id.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors or .pt file to write.")],
    stage: Annotated[
        int | None,
        typer.Option(
            "--stage",
            min=1,
            max=2,
            help="1 leaves the captioner out; 2 if it is there and not given.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model folder as a checkpoint that the authors' code loads.

    What came from such a checkpoint comes back bit by bit.
    """
    _refuse_existing(out, overwrite)
    from vlv.checkpoints.authors.export import export_authors
    from vlv.checkpoints.hub import resolve

    folder = resolve(model)
    names = export_authors(folder, out, stage=1 if stage == 1 else (2 if stage == 2 else None))
    if as_json:
        typer.echo(json.dumps({"out": str(out), "tensors": names}))
    else:
        typer.echo(f"{out}: {len(names)} tensors")


def _refuse_existing(out: Path, overwrite: bool) -> None:
    from vlv.errors import ConfigError

    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already; choose another name or give --overwrite")
