"""`vlv convert authors` and `vlv convert to-authors`: checkpoints of the paper's authors."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.common import refuse_existing
from vlv.cli.options.files import JsonOption, OverwriteOption

_BASE_HELP = (
    "Base model of the {}: an id on the Hub or a folder. Its configs and tokenizer are used."
)


def authors(
    source: Annotated[
        Path,
        typer.Argument(
            help="A .safetensors or .pt file, or a folder that holds one or its shards."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    encoder: Annotated[
        str | None, typer.Option("--encoder", help=_BASE_HELP.format("encoder (Florence-2)"))
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option("--decoder", help=_BASE_HELP.format("diffusion decoder (Stable Diffusion)")),
    ] = None,
    language_model: Annotated[
        str | None,
        typer.Option("--language-model", help=_BASE_HELP.format("caption decoder (Qwen2.5)")),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(
            "--dtype", help="Data type of the written weights.", show_default="that of the source"
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a checkpoint of the paper's authors, of stage 1 or 2, into a model folder.

    Every tensor is used, or reported with the reason why not. A tensor that is unknown, missing or
    misshapen is an error. Code in PyTorch files is never run.
    """
    refuse_existing(out, overwrite)
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
        record = {
            "out": str(out),
            "stage": report.stage,
            "components": report.components,
            "tensors": report.tensors,
            "unused": report.unused,
        }
        typer.echo(json.dumps(record))
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
            help="1 leaves the caption decoder out; 2 includes it.",
            show_default="2 if the model has a caption decoder",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a model folder into a checkpoint that the authors' code loads.

    A folder that was converted from such a checkpoint gives the same tensors bit by bit.
    """
    refuse_existing(out, overwrite)
    from vlv.checkpoints.authors.export import export_authors
    from vlv.checkpoints.hub import resolve

    folder = resolve(model)
    names = export_authors(folder, out, stage=1 if stage == 1 else (2 if stage == 2 else None))
    if as_json:
        typer.echo(json.dumps({"out": str(out), "tensors": names}))
    else:
        typer.echo(f"{out}: {len(names)} tensors")
