"""`vlv caption`: captions of images."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.caption_output import Made, Output, OutputFormat, first_of_shared, report_unsupported
from vlv.cli.caption_plan import SAMPLE, Plan, load_for, show_plan, trial, with_preview
from vlv.cli.common import (
    Failures,
    add_to_ood_list,
    check_ood_list,
    is_fine_tune,
    note_differences,
    progress,
    smallest,
    warn_of_ood,
)
from vlv.cli.option_groups import (
    EngineOptions,
    GenerationOptions,
    InputOptions,
    PresetModelOptions,
)
from vlv.cli.options.captions import DEFAULT_FALSE_ALARM_RATE, FalseAlarmRateOption, TriggerOption
from vlv.cli.options.files import (
    CaptionExtensionOption,
    JsonOption,
    OverwriteCaptionsOption,
    OverwriteEditedOption,
)
from vlv.cli.options.headings import CHECKS, OUTPUT
from vlv.cli.options.limits import (
    DEFAULT_MAX_MEGAPIXELS,
    MaxMegapixelsOption,
    ModelBatchSizeOption,
    pixels,
)
from vlv.text import begun_with, counted

if TYPE_CHECKING:
    from vlv.inference.records import Captioned, ImageInput, Refused


def caption(
    command: typer.Context,
    inputs: InputOptions,
    generation: GenerationOptions,
    model_options: PresetModelOptions,
    engine_options: EngineOptions,
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
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Mark sentences that the image does not support.",
            rich_help_panel=CHECKS,
        ),
    ] = False,
    drop_unsupported: Annotated[
        bool,
        typer.Option(
            "--drop-unsupported",
            help="Drop sentences that the image does not support.",
            rich_help_panel=CHECKS,
        ),
    ] = False,
    false_alarm_rate: FalseAlarmRateOption = DEFAULT_FALSE_ALARM_RATE,
    best_of: Annotated[
        int,
        typer.Option(
            "--best-of",
            min=1,
            help="Sample so many captions per image and keep the one with the lowest denoising "
            "error.",
            rich_help_panel=CHECKS,
        ),
    ] = 1,
    skip_ood: Annotated[
        bool,
        typer.Option(
            "--skip-ood",
            help="Do not caption out-of-distribution images.",
            rich_help_panel=CHECKS,
        ),
    ] = False,
    ood_list: Annotated[
        Path | None,
        typer.Option(
            "--ood-list",
            help="File to add the names of out-of-distribution images to; --filelist reads it.",
            show_default=False,
            rich_help_panel=CHECKS,
        ),
    ] = None,
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
    from vlv.errors import ConfigError
    from vlv.inference.batching import batch_size as parsed_batch_size

    given = None if batch_size is None else parsed_batch_size(batch_size)
    marks = drop_unsupported or verify
    if best_of > 1 and generation.num_return_sequences > 1:
        raise ConfigError("--best-of keeps one caption; leave out --num-return-sequences")
    if false_alarm_rate != DEFAULT_FALSE_ALARM_RATE and not marks:
        raise ConfigError("--false-alarm-rate needs --verify or --drop-unsupported; add one")
    if ood_list is not None:
        check_ood_list(ood_list)
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
    failures = Failures(as_json)
    failures.add(*found.refused)
    images = first_of_shared(found.images) if output_format == "txt" else found.images
    to_do = [image for image in images if not out.has(image)]
    plan = Plan(
        to_caption=len(to_do),
        kept=len(images) - len(to_do),
        shared=len(found.images) - len(images),
        refused=len(found.refused),
        sets=len(found.sets),
        way_to_replace=out.way_to_replace,
    )

    from vlv.inference.captioning import caption_images
    from vlv.inference.encoding import default_batch_size
    from vlv.inference.engine_choice import closed_after
    from vlv.inference.inputs import inputs_of
    from vlv.inference.verification import CheckSettings, check_captions, require_parts

    preset = model_options.chosen_preset
    # Beams differ in words more than in facts. Samples differ in facts, so there is a best one.
    sampling = {"num_return_sequences": best_of, "temperature": generation.temperature or 1.0}
    choice = engine_options.choice
    settings = choice.settings(generation.settings(preset, **(sampling if best_of > 1 else {})))
    opened = model_options.open(choice.work(settings, smallest(given or 8)))
    note_differences(preset, opened)
    checks = CheckSettings(best_of > 1, drop_unsupported, verify, false_alarm_rate)
    if checks.any:
        require_parts(opened, marks=marks)
    if (skip_ood or ood_list is not None) and opened.ood_detector is None:
        raise ConfigError(
            f"{model_options.model} has no OOD detector, which --skip-ood and --ood-list need; "
            "`vlv ood-detector` adds one to a model folder"
        )
    engine, prompts = choice.open(opened, lambda line: typer.echo(f"vlv: {line}", err=True))
    size = given or default_batch_size(opened)
    waiting = _Waiting(inputs_of(to_do, found.sets, max_pixels=pixels(max_megapixels)), out)
    if dry_run:
        load_for(opened, writes=engine is None)
        waiting.stop_after(SAMPLE)
    results: Iterable[Captioned | Refused] = caption_images(
        opened,
        waiting,
        settings,
        batch_size=size,
        skip_ood=skip_ood,
        engine=engine,
        prompts=prompts,
    )
    if not dry_run and (not out.prints or not sys.stdout.isatty()):
        results = progress(results, total=None if found.sets else len(to_do))
    out_of_distribution: list[str] = []
    if checks.any:
        results = check_captions(opened, results, checks)
    made = _made(results, failures, out_of_distribution, generation, trigger, as_json)
    if dry_run:
        with closed_after(engine):
            tried = trial(made)
        show_plan(plan, tried, str(opened.device), as_json)
        failures.exit()
        return
    if not out.prints and not as_json:
        made = with_preview(made, plan)
    bare = inputs.is_one_file and not found.sets
    try:
        with closed_after(engine):
            out.write(made, failures, bare=bare, as_json=as_json)
    finally:
        if ood_list is not None:
            add_to_ood_list(ood_list, out_of_distribution)
    warn_of_ood(
        len(out_of_distribution),
        out_of_distribution,
        skipped=skip_ood,
        fine_tuned=is_fine_tune(opened),
    )
    if not out.prints and not as_json:
        skipped = len(out_of_distribution) if skip_ood else 0
        typer.echo(_summary(out, plan, waiting.left, skipped, failures.count))
    failures.exit()


def _check_only_missing(output_format: OutputFormat | None, replaces: bool) -> None:
    """Raise ConfigError where --only-missing contradicts what else was given."""
    from vlv.errors import ConfigError

    if replaces:
        raise ConfigError("--only-missing keeps existing captions; leave out --overwrite")
    if output_format is None:
        raise ConfigError("--only-missing needs --output-format: printed captions are not stored")


def _summary(out: Output, plan: Plan, late: int, skipped: int, failed: int) -> str:
    """What became of the images, in a line. late: those that had a caption when their turn came.
    skipped: those that are out of distribution.
    """
    parts = [f"{counted(out.written, 'caption')} written"]
    if left := plan.kept + late + out.kept_meanwhile:
        parts.append(f"{left} left as they are ({plan.way_to_replace})")
    if plan.shared:
        parts.append(f"{plan.shared} without a caption file of their own")
    if skipped:
        parts.append(f"{skipped} out-of-distribution skipped")
    return ", ".join([*parts, f"{failed} failed"])


class _Waiting:
    """Inputs on their way to the model; those that have a caption already are only counted."""

    def __init__(self, inputs: "Iterable[ImageInput | Refused]", out: Output) -> None:
        self.left = 0
        self._inputs = inputs
        self._out = out
        self._most: int | None = None

    def stop_after(self, most: int) -> None:
        """Give no more than so many inputs."""
        self._most = most

    def __iter__(self) -> "Iterator[ImageInput | Refused]":
        from vlv.inference.records import ImageInput

        given = 0
        for one in self._inputs:
            if isinstance(one, ImageInput) and self._out.has(one.path):
                self.left += 1
                continue
            if given == self._most:
                return
            given += 1
            yield one


def _made(
    results: "Iterable[Captioned | Refused]",
    failures: Failures,
    out_of_distribution: list[str],
    generation: GenerationOptions,
    trigger: str,
    as_json: bool,
) -> Iterator[Made]:
    """The captioned images. Failures are reported, and names of out-of-distribution images are
    added to the list, as they come.
    """
    from vlv.inference.captioning import OUT_OF_DISTRIBUTION
    from vlv.inference.postprocess import surround
    from vlv.inference.records import Refused

    for result in results:
        if isinstance(result, Refused) and result.reason == OUT_OF_DISTRIBUTION:
            out_of_distribution.append(result.name)
            if as_json:
                record = {"file_name": result.name, "in_distribution": False, "text": None}
                typer.echo(json.dumps(record))
            continue
        if isinstance(result, Refused):
            failures.add(result)
            continue
        if result.in_distribution is False:
            out_of_distribution.append(result.name)
        report_unsupported(result)
        texts = [
            begun_with(trigger, surround(one, generation.prepend, generation.append))
            for one in result.texts
        ]
        yield Made(result, texts)
