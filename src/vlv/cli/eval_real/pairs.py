"""`vlv eval pairs`: captions of one's own images, measured."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.eval_real.caption_options import CaptioningOptions
from vlv.cli.eval_real.results import exit_after, print_results
from vlv.cli.eval_real.sets import CaptionFilesOption, check_names, named_models
from vlv.cli.options.files import JsonOption
from vlv.cli.options.headings import INPUT, MODEL


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
    captions: CaptionFilesOption = None,
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
    captioning: CaptioningOptions = CaptioningOptions(),  # noqa: B008
    as_json: JsonOption = False,
) -> None:
    """Measure captions of images that have captions, such as those that a model was fine-tuned on.

    CIDEr, BLEU and ROUGE-L against all captions of an image, CLIPScore, the loss of these captions
    under a model of ours, length, repetition and vocabulary, with intervals; captioners are
    compared over the same images. Writes result.json and a page with the best, worst and random
    captions. The same command continues a run that was interrupted. Images that were left out are
    named, and the exit code is then 1.
    """
    from vlv.cli.common import progress
    from vlv.evaluation.real.captions_file import named_files
    from vlv.evaluation.real.pairs_run import PAGE, RESULT, PairsSettings, measure_pairs

    by_name = named_models(models or [])
    files = named_files(captions or [])
    check_names("captioners", [*by_name, *files], "NAME=MODEL and NAME=FILE")
    measured = measure_pairs(
        PairsSettings(
            source,
            out,
            by_name,
            files,
            clip,
            limit,
            captioning.generation(),
            captioning.batch_size,
            captioning.device,
            captioning.dtype,
        ),
        progress,
    )
    print_results(measured.result, (out / RESULT, out / PAGE), as_json)
    exit_after(left_out=measured.left_out)
