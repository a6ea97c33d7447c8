"""`vlv verify`: which sentences of captions the images support."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlv.cli.common import (
    Failures,
    is_fine_tune,
    is_seen,
    progress,
    require_standard_output,
    warn_of_ood,
)
from vlv.cli.option_groups import InputOptions, OffloadModelOptions
from vlv.cli.options.captions import DEFAULT_FALSE_ALARM_RATE, FalseAlarmRateOption
from vlv.cli.options.files import CaptionExtensionOption, JsonOption, OverwriteOption
from vlv.cli.options.headings import INPUT, OUTPUT
from vlv.errors import ConfigError
from vlv.text import printable

if TYPE_CHECKING:
    from vlv.inference.caption_files import Sidecars
    from vlv.inference.records import ImageInput, Refused
    from vlv.models.vlv import VLVModel
    from vlv.verification.report import Shown
    from vlv.verification.verdicts import Verified

_MARKS = {
    "supported": "supported",
    "unsupported": "UNSUPPORTED",
    "cannot_judge": "CANNOT JUDGE",
}


def verify(
    inputs: InputOptions,
    model_options: OffloadModelOptions,
    caption: Annotated[
        str | None,
        typer.Option(
            "--caption",
            help="The caption of the one image.",
            show_default="what the model writes",
            rich_help_panel=INPUT,
        ),
    ] = None,
    caption_files: Annotated[
        bool,
        typer.Option(
            "--caption-files",
            help="Check the caption files beside the images.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    caption_extension: CaptionExtensionOption = ".txt",
    false_alarm_rate: FalseAlarmRateOption = DEFAULT_FALSE_ALARM_RATE,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Also write an HTML page with reconstructions and maps of what the caption lacks.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output_format: Annotated[
        Literal["fiftyone", "label-studio"] | None,
        typer.Option(
            "--output-format",
            help="Also write the marks into the folder --output, as FiftyOne or Label Studio "
            "imports them; `vlv data sentence-labels` reads what people change there.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder of --output-format.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check which sentences of a caption the image supports, by their denoising error.

    Prints a line for each sentence with its verdict and, where it is unsupported, the words that
    explain the image better. A sentence cannot be judged if the image is out-of-distribution, or
    if the sentence is unlike those of the training captions; the reason is printed.

    The exit code is 0 whatever the verdicts are. An image that cannot be read is named on standard
    error; the exit code is then 1.
    """
    from vlv.inference.caption_files import Sidecars
    from vlv.inference.inputs import STANDARD_INPUT, inputs_of

    if caption_extension != ".txt" and not caption_files:
        raise ConfigError("--caption-extension is of --caption-files: give that too")
    sidecars = Sidecars(caption_extension) if caption_files else None
    found = inputs.find()
    if caption is not None and not caption.strip():
        raise ConfigError("--caption is empty; leave it out to check the model's own caption")
    if caption is not None and (caption_files or found.sets or len(found.images) != 1):
        raise ConfigError("--caption needs exactly one image and no --caption-files")
    if caption_files and found.sets:
        raise ConfigError("--caption-files needs image files; a dataset has no files beside it")
    if output_format == "fiftyone" and (found.sets or STANDARD_INPUT in found.images):
        raise ConfigError(
            "FiftyOne shows image files; extract those of a dataset with `vlv data convert`, or "
            "use --output-format label-studio"
        )
    _check_places(report, output_format, output, overwrite)
    if report is None and output is None:
        require_standard_output("--report or --output")
    failures = Failures(as_json)
    failures.add(*found.refused)

    from vlv.inference.records import Refused
    from vlv.inference.verification import require_parts, verify_image

    opened = model_options.open()
    require_parts(opened, marks=True)
    pages, marked = [], []
    out_of_distribution: list[str] = []
    images = inputs_of(found.images, found.sets)
    if not is_seen():  # otherwise the printed lines show the progress
        images = progress(images, total=None if found.sets else len(found.images))
    for one in images:
        if isinstance(one, Refused):
            failures.add(one)
            continue
        text = caption or _caption(opened, one, sidecars)
        checked = (
            text if isinstance(text, Refused) else verify_image(opened, one, text, false_alarm_rate)
        )
        if isinstance(checked, Refused):
            failures.add(checked)
            continue
        if checked.in_distribution is False:
            out_of_distribution.append(checked.name)
        typer.echo(_as_json(checked) if as_json else _as_text(checked))
        if report is not None:
            pages.append(_shown(opened, one, checked))
        if output is not None:
            marked.append((one, checked))
    if report is not None and pages:
        _write_page(report, pages, false_alarm_rate)
    if output is not None and output_format is not None:
        _write_marks(marked, output_format, output, overwrite)
    warn_of_ood(
        len(out_of_distribution),
        out_of_distribution,
        judged=True,
        fine_tuned=is_fine_tune(opened),
    )
    failures.exit()


def _check_places(
    report: Path | None, output_format: str | None, output: Path | None, overwrite: bool
) -> None:
    """Raise ConfigError where a report or marks cannot be written, or would replace something."""
    if report is not None:
        if report.exists() and not overwrite:
            raise ConfigError(f"{report} exists already; name another file or give --overwrite")
        if report.is_dir() or not report.parent.is_dir():
            raise ConfigError(f"--report {report} is not a file name in an existing folder")
    if (output_format is None) != (output is None):
        raise ConfigError("--output-format and --output belong together; give both")
    if output is not None and (output.is_file() or (_holds(output) and not overwrite)):
        raise ConfigError(f"{output} exists already; name another folder or give --overwrite")


def _caption(
    model: "VLVModel", image: "ImageInput", sidecars: "Sidecars | None"
) -> "str | Refused":
    """The caption to check: from the file beside the image, or written by the model."""
    from vlv.data.samples import caption_lines
    from vlv.inference.captioning import caption_images
    from vlv.inference.records import Refused

    if sidecars is None:
        (result,) = caption_images(model, [image])
        return result if isinstance(result, Refused) else result.caption
    path = sidecars.path(image.path)
    try:
        text = "\n".join(caption_lines(path.read_bytes()))
    except (OSError, ValueError) as error:
        return Refused(image.name, "no-caption", f"the caption file {path} cannot be read: {error}")
    return text or Refused(image.name, "no-caption", f"the caption file {path} is empty")


def _as_json(checked: "Verified") -> str:
    record = {
        "file_name": checked.name,
        "text": checked.caption,
        "in_distribution": checked.in_distribution,
        "sentences": [one.record() for one in checked.sentences],
    }
    return json.dumps(record)


def _as_text(checked: "Verified") -> str:
    from vlv.verification.verdicts import why

    lines = [printable(checked.name)]
    for one in checked.sentences:
        probability = "" if one.probability is None else f"{one.probability:.0%}"
        lines.append(f"  {_MARKS[one.verdict]:12}  {probability:>4}  {printable(one.text)}")
        if one.supported is not True and (reason := why(checked.caption, one)):
            lines.append(f"{'':22}{'better' if one.reason is None else 'because'}: {reason}")
    return "\n".join(lines)


def _shown(model: "VLVModel", image: "ImageInput", checked: "Verified") -> "Shown":
    from vlv.verification.report import show

    return show(model, image.picture(), checked)


def _write_page(report: Path, pages: "Sequence[Shown]", false_alarm_rate: float) -> None:
    from vlv.files import write_text
    from vlv.verification.report import report_page

    write_text(report, report_page(pages, false_alarm_rate))


def _holds(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _write_marks(
    marked: "Sequence[tuple[ImageInput, Verified]]",
    layout: Literal["fiftyone", "label-studio"],
    folder: Path,
    overwrite: bool,
) -> None:
    from vlv.integrations.sentence_marks.marks import write_marks
    from vlv.integrations.sentence_marks.records import MarkedCaption

    captions = [MarkedCaption.of(image, checked) for image, checked in marked]
    write_marks(captions, layout, folder, overwrite=overwrite)
