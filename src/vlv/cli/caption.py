"""`vlv caption`: captions of images."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.caption_output import Output, OutputFormat
from vlv.cli.caption_plan import SAMPLE, planned
from vlv.cli.caption_run import Run, Waiting, open_captioner
from vlv.cli.common import Failures, require_standard_output
from vlv.cli.option_groups import (
    CheckOptions,
    EngineOptions,
    GenerationOptions,
    InputOptions,
    PresetModelOptions,
)
from vlv.cli.options.captions import TriggerOption
from vlv.cli.options.files import (
    CaptionExtensionOption,
    JsonOption,
    OverwriteCaptionsOption,
    OverwriteEditedOption,
)
from vlv.cli.options.headings import OUTPUT
from vlv.cli.options.limits import (
    DEFAULT_MAX_MEGAPIXELS,
    MaxMegapixelsOption,
    ModelBatchSizeOption,
    pixels,
)


def caption(
    command: typer.Context,
    inputs: InputOptions,
    generation: GenerationOptions,
    model_options: PresetModelOptions,
    engine_options: EngineOptions,
    checks: CheckOptions,
    output_format: Annotated[
        OutputFormat | None,
        typer.Option(
            "--output-format",
            help="txt: a caption file beside each image; jsonl: metadata.jsonl in the folder; "
            "json: one file as kohya's scripts read it; parquet or webdataset: a new dataset of "
            "images with captions.",
            show_default="print to standard output",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file of jsonl or json, or the folder of parquet or webdataset.",
            show_default="jsonl: metadata.jsonl in the folder of the images",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    caption_extension: CaptionExtensionOption = ".txt",
    only_missing: Annotated[
        bool,
        typer.Option(
            "--only-missing",
            help="Caption only images without a caption in --output-format. This is the default; "
            "the flag refuses --overwrite.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    overwrite: OverwriteCaptionsOption = False,
    overwrite_edited: OverwriteEditedOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Write nothing: state what would be captioned and how long it would take, and "
            f"print the captions of the first {SAMPLE} images.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: JsonOption = False,
    trigger: TriggerOption = "",
    batch_size: ModelBatchSizeOption = None,
    max_megapixels: MaxMegapixelsOption = DEFAULT_MAX_MEGAPIXELS,
) -> None:
    """Caption images.

    Prints path<TAB>caption for each image, the caption only for a single image, or a line of JSON
    with --json. With --num-return-sequences each caption has its own line, the best one first.

    An image that cannot be read is named on standard error, and the others go on; the exit code is
    then 1. Existing captions are kept and cost no time. --overwrite replaces those that vlv wrote,
    and --overwrite-edited also those that somebody wrote or edited.
    """
    # A wrong path or flag is reported before torch and the model are loaded.
    from vlv.inference.batching import batch_size as parsed_batch_size

    size = None if batch_size is None else parsed_batch_size(batch_size)
    checks.check(generation)
    if only_missing:
        _check_only_missing(output_format, overwrite or overwrite_edited)
    found = inputs.find()
    out = Output(
        output_format,
        output,
        caption_extension,
        found,
        inputs.folders(found),
        overwrite,
        overwrite_edited,
        None if dry_run else command,
    )
    if out.prints or dry_run:
        require_standard_output("--output-format and no --dry-run")
    failures = Failures(as_json)
    failures.add(*found.refused)
    to_do, plan = planned(found, out)

    from vlv.inference.inputs import inputs_of

    captioner = open_captioner(model_options, engine_options, generation, checks, size)
    images = inputs_of(to_do, found.sets, max_pixels=pixels(max_megapixels))
    waiting = Waiting(images, out, most=SAMPLE if dry_run else None)
    run = Run(captioner, waiting, out, plan, failures, as_json)
    if dry_run:
        run.try_out(generation, trigger)
    else:
        run.write(generation, trigger, bare=inputs.is_one_file and not found.sets)
        run.report()
    failures.exit()


def _check_only_missing(output_format: OutputFormat | None, replaces: bool) -> None:
    """Raise ConfigError where --only-missing contradicts what else was given."""
    from vlv.errors import ConfigError

    if replaces:
        raise ConfigError("--only-missing keeps existing captions; leave out --overwrite")
    if output_format is None:
        raise ConfigError("--only-missing needs --output-format: printed captions are not stored")
