"""`vlv caption`."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.caption_output import (
    Made,
    Output,
    OutputFormat,
    add_to_ood_list,
    check_ood_list,
    first_of_shared,
    tell_unsupported,
    warn_of_ood,
)
from vlv.cli.failures import Failures
from vlv.cli.inputs import find
from vlv.cli.opening import smallest, tell_differences
from vlv.cli.options import (
    DEFAULT_FALSE_ALARM_RATE,
    DEFAULT_MAX_MEGAPIXELS,
    DEFAULT_MODEL,
    AppendOption,
    BannedWordsOption,
    CaptionExtensionOption,
    DeviceOption,
    DropRepeatedOption,
    DropUnfinishedOption,
    DtypeOption,
    FalseAlarmRateOption,
    FilelistOption,
    ForcedStartOption,
    GlobOption,
    InputsArgument,
    JsonOption,
    MaxMegapixelsOption,
    MaxNewTokensOption,
    MinNewTokensOption,
    ModelBatchSizeOption,
    ModelOption,
    NumBeamsOption,
    NumReturnSequencesOption,
    OffloadOption,
    OverwriteEditedOption,
    OverwriteOption,
    PrependOption,
    PresetOption,
    QuantizationOption,
    RecursiveOption,
    RevisionOption,
    SeedOption,
    TemperatureOption,
    TopPOption,
    pixels,
    words,
)

if TYPE_CHECKING:
    from vlv.inference.records import Captioned, ImageInput, Refused


def caption(
    command: typer.Context,
    paths: InputsArgument = None,
    patterns: GlobOption = None,
    filelist: FilelistOption = None,
    recursive: RecursiveOption = False,
    output_format: Annotated[
        OutputFormat | None,
        typer.Option(
            "--output-format",
            help="txt: a file beside each image; jsonl: metadata.jsonl in the folder; json: "
            "kohya's; parquet, webdataset: images and captions. Standard output if not given.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file of jsonl (metadata.jsonl in the images' folder if not given) or json; "
            "the folder of parquet or webdataset.",
            show_default=False,
        ),
    ] = None,
    caption_extension: CaptionExtensionOption = ".txt",
    overwrite: OverwriteOption = False,
    overwrite_edited: OverwriteEditedOption = False,
    preset: PresetOption = None,
    num_beams: NumBeamsOption = None,
    num_return_sequences: NumReturnSequencesOption = 1,
    max_new_tokens: MaxNewTokensOption = None,
    min_new_tokens: MinNewTokensOption = 0,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = 0,
    forced_start: ForcedStartOption = "",
    banned_words: BannedWordsOption = "",
    drop_unfinished: DropUnfinishedOption = None,
    drop_repeated: DropRepeatedOption = None,
    best_of: Annotated[
        int,
        typer.Option(
            "--best-of",
            min=1,
            help="Sample as many captions and keep the one that explains the image best.",
        ),
    ] = 1,
    drop_unsupported: Annotated[
        bool,
        typer.Option("--drop-unsupported", help="Leave out sentences that the image contradicts."),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Mark sentences that the image does not support.")
    ] = False,
    false_alarm_rate: FalseAlarmRateOption = DEFAULT_FALSE_ALARM_RATE,
    skip_ood: Annotated[
        bool,
        typer.Option(
            "--skip-ood",
            help="Write no caption of an image that is unlike those of training.",
        ),
    ] = False,
    ood_list: Annotated[
        Path | None,
        typer.Option(
            "--ood-list",
            help="A file to add the names of all such images to, as --filelist reads it.",
            show_default=False,
        ),
    ] = None,
    prepend: PrependOption = "",
    append: AppendOption = "",
    batch_size: ModelBatchSizeOption = None,
    max_megapixels: MaxMegapixelsOption = DEFAULT_MAX_MEGAPIXELS,
    as_json: JsonOption = False,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    offload: OffloadOption = False,
) -> None:
    """Write captions of images.

    Prints `path<TAB>caption` for each image, the bare caption for a single one, or a line of JSON
    with --json; with --num-return-sequences a line for each caption, the best one first. A file
    that cannot be read is named on standard error and stops no other; the exit code is then 1.
    Captions that exist already are left alone, and not made again, unless --overwrite is given,
    and those that were written or edited by hand unless --overwrite-edited is.
    """
    # Names first: a wrong path or flag is told before torch and the model take their seconds.
    from vlv.errors import ConfigError
    from vlv.inference.batching import batch_size as parsed_batch_size

    given = None if batch_size is None else parsed_batch_size(batch_size)
    if best_of > 1 and num_return_sequences > 1:
        raise ConfigError("--best-of keeps one caption; leave out --num-return-sequences")
    if false_alarm_rate != DEFAULT_FALSE_ALARM_RATE and not (verify or drop_unsupported):
        raise ConfigError("--false-alarm-rate is of marks: give --verify or --drop-unsupported too")
    if ood_list is not None:
        check_ood_list(ood_list)
    found = find(paths, patterns, filelist, recursive)
    # Of a folder that is named, the folder; of a pattern or a list, those that the images lie in.
    places = [*found.images, *found.sets] if patterns or filelist else (paths or [])
    out = Output(
        output_format,
        output,
        caption_extension,
        found,
        places,
        overwrite,
        overwrite_edited,
        command,
    )
    failures = Failures(as_json)
    failures.add(*found.refused)
    images = first_of_shared(found.images) if output_format == "txt" else found.images
    to_do = [image for image in images if not out.has(image)]

    from vlv.checkpoints.memory import Work
    from vlv.checkpoints.parts import CAPTIONING
    from vlv.cli.progress import progress
    from vlv.inference.captioning import caption_images
    from vlv.inference.encoding import default_batch_size
    from vlv.inference.inputs import inputs_of
    from vlv.inference.loading import open_model
    from vlv.inference.presets import caption_settings
    from vlv.inference.presets import preset as preset_of
    from vlv.inference.verification import CheckSettings, check_captions, require_parts

    chosen = preset_of(preset)
    settings = caption_settings(
        chosen,
        {
            "num_beams": num_beams,
            "num_return_sequences": max(num_return_sequences, best_of),
            "max_new_tokens": max_new_tokens,
            "min_new_tokens": min_new_tokens,
            # Beams differ in wording; what samples differ in is what there is to choose.
            "temperature": temperature or (1.0 if best_of > 1 else 0.0),
            "top_p": top_p,
            "seed": seed,
            "forced_start": forced_start,
            "banned_words": words(banned_words),
            "drop_unfinished": drop_unfinished,
            "drop_repeated": drop_repeated,
        },
    )
    opened = open_model(
        model,
        revision=revision,
        device=device,
        dtype=dtype or chosen.dtype,
        quantization=quantization,
        offload=offload,
        work=Work(CAPTIONING, smallest(given or 8), settings.sequences, settings.max_new_tokens),
    )
    tell_differences(chosen, opened)
    checks = CheckSettings(best_of > 1, drop_unsupported, verify, false_alarm_rate)
    if checks.any:
        require_parts(opened, marks=drop_unsupported or verify)
    if (skip_ood or ood_list is not None) and opened.ood_detector is None:
        raise ConfigError(
            f"{model} does not say which images it knows, which --skip-ood and --ood-list "
            "need; `vlv ood-detector` adds that to a model folder"
        )
    size = given or default_batch_size(opened)
    waiting = _Waiting(inputs_of(to_do, found.sets, max_pixels=pixels(max_megapixels)), out)
    results: Iterable[Captioned | Refused] = caption_images(
        opened, waiting, settings, batch_size=size, skip_ood=skip_ood
    )
    if not out.prints or not sys.stdout.isatty():
        results = progress(results, total=None if found.sets else len(to_do))
    out_of_distribution: list[str] = []
    if checks.any:
        results = check_captions(opened, results, checks)
    made = _made(results, failures, out_of_distribution, prepend, append, as_json)
    bare = _is_one_image(paths, patterns, filelist) and not found.sets
    try:
        out.write(made, failures, bare=bare, as_json=as_json)
    finally:
        if ood_list is not None:
            add_to_ood_list(ood_list, out_of_distribution)
    warn_of_ood(len(out_of_distribution), out_of_distribution, skipped=skip_ood)
    if not out.prints and not as_json:
        left = len(images) - len(to_do) + waiting.left + out.kept_meanwhile
        kept = f", {left} left as they are ({out.way_to_replace})" if left else ""
        others = len(found.images) - len(images)
        shared = f", {others} without a caption file of their own" if others else ""
        skipped = f", {len(out_of_distribution)} out-of-distribution skipped" if skip_ood else ""
        typer.echo(
            f"{out.written} captions written{kept}{shared}{skipped}, {failures.count} failed"
        )
    failures.exit()


class _Waiting:
    """Inputs on their way to the model; those that have a caption already are only counted."""

    def __init__(self, inputs: "Iterable[ImageInput | Refused]", out: Output) -> None:
        self.left = 0
        self._inputs = inputs
        self._out = out

    def __iter__(self) -> "Iterator[ImageInput | Refused]":
        from vlv.inference.records import ImageInput

        for one in self._inputs:
            if isinstance(one, ImageInput) and self._out.has(one.path):
                self.left += 1
                continue
            yield one


def _made(
    results: "Iterable[Captioned | Refused]",
    failures: Failures,
    out_of_distribution: list[str],
    prepend: str,
    append: str,
    as_json: bool,
) -> Iterator[Made]:
    """What was captioned; failures and names of out-of-distribution images are noted on the way."""
    from vlv.inference.captioning import OUT_OF_DISTRIBUTION
    from vlv.inference.postprocess import surround
    from vlv.inference.records import Refused

    for result in results:
        if isinstance(result, Refused) and result.reason == OUT_OF_DISTRIBUTION:
            out_of_distribution.append(result.name)
            if as_json:
                typer.echo(
                    json.dumps({"file_name": result.name, "in_distribution": False, "text": None})
                )
            continue
        if isinstance(result, Refused):
            failures.add(result)
            continue
        if result.in_distribution is False:
            out_of_distribution.append(result.name)
        tell_unsupported(result)
        yield Made(result, [surround(one, prepend, append) for one in result.texts])


def _is_one_image(
    paths: list[Path] | None, patterns: list[str] | None, filelist: Path | None
) -> bool:
    only = paths[0] if paths and len(paths) == 1 and not (patterns or filelist) else None
    return only is not None and not os.path.isdir(only)
