"""`vlv finetune`: a captioner fine-tuned on one's own pictures."""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vlv.cli.common import progress, refuse_existing
from vlv.text import printable


def finetune(
    model: Annotated[
        str | None,
        typer.Argument(
            help="vlv-mini, a model folder, or an id on the Hugging Face Hub.", show_default=False
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of images with captions beside them (NAME.txt or metadata.jsonl), a "
            "JSON of captions as kohya's scripts write it, shards, or parquet files.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write.", show_default=False),
    ] = None,
    merge: Annotated[
        Path | None,
        typer.Option(
            "--merge",
            help="A fine-tune to write as an ordinary model folder; nothing is trained.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="With --merge: replace the model that --out names."),
    ] = False,
    lora_rank: Annotated[
        int,
        typer.Option("--lora-rank", min=1, max=4096, help="Rank of the LoRA."),
    ] = 16,
    full: Annotated[
        bool, typer.Option("--full", help="Train the whole caption decoder instead of a LoRA.")
    ] = False,
    quantization: Annotated[
        Literal["8bit", "4bit"] | None,
        typer.Option(
            "--quantization",
            help="Keep the language model in 8 or 4 bits while its LoRA trains (QLoRA); needs the "
            "extra `quantization`.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            min=1,
            help="How often each image is seen.",
            show_default="3 to 20, more for fewer images",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            help="Highest learning rate.",
            show_default="5e-4 for a LoRA, 1e-4 with --full",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images per step. Where memory is short, they are computed in smaller parts.",
        ),
    ] = 8,
    view: Annotated[
        Literal["whole", "crop"],
        typer.Option(
            "--view",
            help="What the encoder sees of an image: all of it, squeezed into a square, or the "
            "middle square.",
        ),
    ] = "whole",
    trigger: Annotated[
        str, typer.Option("--trigger", help="A word that every caption shall begin with.")
    ] = "",
    caption_dropout: Annotated[
        float,
        typer.Option(
            "--caption-dropout",
            min=0.0,
            max=0.99,
            help="Probability with which each sentence or tag but the first is left out of a "
            "caption.",
        ),
    ] = 0.0,
    first_line: Annotated[
        bool,
        typer.Option(
            "--first-line",
            help="Use only the first line of a caption file. Otherwise each line is a caption.",
        ),
    ] = False,
    validation: Annotated[
        str,
        typer.Option("--validation", help="Images to hold out: a share such as 5%, or a number."),
    ] = "5%",
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Encode each image only once, and keep that on the disk until the end.",
        ),
    ] = True,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of all random numbers.")
    ] = 0,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Branch, tag or commit of a model on the Hub."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="cpu, cuda, cuda:1 or mps.", show_default="the best one available"
        ),
    ] = None,
) -> None:
    """Fine-tune a captioner on your own images and captions.

    Writes a small folder that `vlv caption --model OUT` opens. A run that was interrupted goes on
    when the same command is started again.
    """
    from vlv.errors import ConfigError

    if out is None:
        raise ConfigError("where shall the fine-tune be written? give --out FOLDER")
    if merge is not None:
        if model is not None:
            raise ConfigError("--merge takes no MODEL and IMAGES: it writes a finished fine-tune")
        refuse_existing(out, overwrite)
        from vlv.checkpoints.merging import merge as write_merged

        write_merged(merge, out)
        typer.echo(str(out))
        return
    if overwrite:
        raise ConfigError(
            "--overwrite is of --merge: a fine-tune goes on in its folder; for another one name "
            "another --out"
        )
    if model is None or images is None:
        raise ConfigError(
            "name a model and the images: vlv finetune MODEL IMAGES --out OUT (the model of the "
            "package is vlv-mini)"
        )
    if learning_rate is not None and not 0 < learning_rate < 1:
        raise ConfigError(f"--learning-rate is between 0 and 1, not {learning_rate:g}")
    from vlv.training.finetuning.config import FinetuneSettings

    settings = FinetuneSettings(
        model=model,
        images=images,
        out=out,
        revision=revision,
        lora_rank=lora_rank,
        full=full,
        quantization=quantization,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        view=view,
        trigger=trigger.strip(),
        caption_dropout=caption_dropout,
        first_line=first_line,
        validation=validation,
        cache=cache,
        seed=seed,
    )
    from vlv.training.accelerator import use_device
    from vlv.training.finetuning.run import finetune as run

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    use_device(device)
    done = run(settings, _say, _watch)
    typer.echo(str(done.folder))
    if done.refused:
        raise typer.Exit(1)


def _say(line: str) -> None:
    """A line on standard error, above the progress bar."""
    from tqdm import tqdm

    tqdm.write(f"vlv: {printable(line)}", file=sys.stderr)


def _watch(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    return progress(items, total=total, description=what)
