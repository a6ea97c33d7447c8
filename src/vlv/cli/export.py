"""`vlv export`: the model of a run that goes on, and models in the forms of other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.common import refuse_existing
from vlv.cli.options.model import RevisionOption
from vlv.text import printable

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Id or folder of a model.", show_default=False)
]


def run(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="The folder of a run: its output_dir.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write; export-STEP in the run's folder if none."
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option("--step", min=0, help="Step of the checkpoint; the newest if none."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model that --out names.")
    ] = False,
) -> None:
    """Write a model folder from a checkpoint of a training run, which may go on meanwhile.

    Run it in the folder where the run was started, so that paths in its config are found.
    """
    if out is not None:
        refuse_existing(out, overwrite)
    from vlv.training.exporting import export_run

    typer.echo(str(export_run(folder, out, step)))


def gguf(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="Model folder to write.", show_default=False)],
    quantize: Annotated[
        Literal["f32", "f16", "q8_0", "q4_k_m"],
        typer.Option(
            "--quantize",
            help="What weights of the language model are stored in: 32, 16, 8.5 or about 4.9 bits.",
        ),
    ] = "q4_k_m",
    revision: RevisionOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model that OUT names.")
    ] = False,
) -> None:
    """Write a model folder whose language model is a GGUF file, for --engine llama.cpp.

    Encoder, text tower and psi are copied as they are. The file caption_decoder/language_model/
    model.gguf can be used by other programs of llama.cpp too, with embeddings as input.
    """
    refuse_existing(out, overwrite)
    from vlv.checkpoints.gguf import export_gguf
    from vlv.checkpoints.opening import load_model

    note = export_gguf(load_model(model, revision), out, quantize)
    if note is not None:
        typer.echo(f"vlv: {printable(note)}", err=True)
    typer.echo(str(out))


def onnx(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    revision: RevisionOption = None,
) -> None:
    """Write the encoder, from normalised pixels to caption embeddings z, as encoder.onnx.

    Weights are float32. Pixels are prepared as vlv_encoder.json in the model folder says.
    """
    from vlv.checkpoints.onnx import export_onnx
    from vlv.checkpoints.opening import load_model

    export_onnx(load_model(model, revision), out)
    typer.echo(str(out))
