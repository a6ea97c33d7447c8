"""`vlv verify`: which sentences of captions the pictures support."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.caption_output import warn_of_ood
from vlv.cli.failures import Failures
from vlv.cli.inputs import find
from vlv.cli.options import (
    DEFAULT_FALSE_ALARM_RATE,
    DEFAULT_MODEL,
    CaptionExtensionOption,
    DeviceOption,
    DtypeOption,
    FalseAlarmRateOption,
    FilelistOption,
    GlobOption,
    InputsArgument,
    JsonOption,
    ModelOption,
    OffloadOption,
    OverwriteOption,
    RecursiveOption,
    RevisionOption,
)
from vlv.errors import ConfigError
from vlv.text import printable

if TYPE_CHECKING:
    from vlv.inference.records import ImageInput, Refused
    from vlv.models.vlv import VLVModel
    from vlv.verification.report import Shown
    from vlv.verification.verify import Verified

_MARKS = {
    "supported": "supported",
    "unsupported": "UNSUPPORTED",
    "cannot_judge": "CANNOT JUDGE",
}


def verify(
    paths: InputsArgument = None,
    patterns: GlobOption = None,
    filelist: FilelistOption = None,
    recursive: RecursiveOption = False,
    caption: Annotated[
        str | None,
        typer.Option(
            "--caption", help="The caption of the one image; the model's own if not given."
        ),
    ] = None,
    caption_files: Annotated[
        bool, typer.Option("--caption-files", help="Check the caption files beside the images.")
    ] = False,
    caption_extension: CaptionExtensionOption = ".txt",
    false_alarm_rate: FalseAlarmRateOption = DEFAULT_FALSE_ALARM_RATE,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="An HTML page with pictures: what the decoder draws, what the caption leaves out.",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offload: OffloadOption = False,
) -> None:
    """Tell which sentences of captions the pictures support, as the diffusion decoder sees it.

    Prints a line for each sentence: its mark, and what would explain the picture better. A picture
    that the model does not know, and a sentence unlike those of the captions that it was trained
    on, cannot be judged; the reason is told. Exit code 0 says that all was looked at, whatever came
    out; an image that cannot be read is named on standard error, and the exit code is then 1.
    """
    found = find(paths, patterns, filelist, recursive)
    if caption is not None and not caption.strip():
        raise ConfigError("--caption is empty; leave it out to check what the model writes")
    if caption is not None and (caption_files or found.sets or len(found.images) != 1):
        raise ConfigError("--caption goes with one image, and without --caption-files")
    if caption_files and found.sets:
        raise ConfigError("--caption-files looks beside image files, and a set has none")
    if report is not None:
        if report.exists() and not overwrite:
            raise ConfigError(f"{report} exists already; name another file or give --overwrite")
        if report.is_dir() or not report.parent.is_dir():
            raise ConfigError(f"--report {report} names no file in a folder that is there")
    failures = Failures(as_json)
    failures.add(*found.refused)

    from vlv.cli.progress import progress
    from vlv.inference.inputs import inputs_of
    from vlv.inference.loading import open_model
    from vlv.inference.records import Refused
    from vlv.inference.verification import require_parts, verify_image

    opened = open_model(model, revision=revision, device=device, dtype=dtype, offload=offload)
    require_parts(opened, marks=True)
    sidecars = caption_extension if caption_files else None
    pages = []
    out_of_distribution: list[str] = []
    inputs = inputs_of(found.images, found.sets)
    if not sys.stdout.isatty():  # else the lines themselves show how far it is
        inputs = progress(inputs, total=None if found.sets else len(found.images))
    for one in inputs:
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
    if report is not None and pages:
        _write_page(report, pages, false_alarm_rate)
    warn_of_ood(len(out_of_distribution), out_of_distribution, judged=True)
    failures.exit()


def _caption(model: "VLVModel", image: "ImageInput", sidecars: str | None) -> "str | Refused":
    """What is to be checked: the caption file beside the image, or what the model writes."""
    from vlv.data.samples import caption_lines
    from vlv.inference.captioning import caption_images
    from vlv.inference.records import Refused

    if sidecars is None:
        (result,) = caption_images(model, [image])
        return result if isinstance(result, Refused) else result.caption
    path = image.path.with_suffix(sidecars)
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
        "sentences": [asdict(one) for one in checked.sentences],
    }
    return json.dumps(record)


def _as_text(checked: "Verified") -> str:
    from vlv.verification.verify import why

    lines = [printable(checked.name)]
    for one in checked.sentences:
        probability = "" if one.probability is None else f"{one.probability:.0%}"
        lines.append(f"  {_MARKS[one.verdict]:12}  {probability:>4}  {printable(one.text)}")
        if one.supported is not True and (reason := why(checked.caption, one)):
            lines.append(f"{'':22}{'better' if one.reason is None else 'because'}: {reason}")
    return "\n".join(lines)


def _shown(model: "VLVModel", image: "ImageInput", checked: "Verified") -> "Shown":
    from vlv.inference.reconstruction import DrawSettings
    from vlv.verification.report import show

    settings = DrawSettings(num_inference_steps=20, scheduler="dpm++")
    return show(model, image.picture(), checked, settings)


def _write_page(report: Path, pages: "Sequence[Shown]", false_alarm_rate: float) -> None:
    from vlv.files import atomic_file
    from vlv.verification.report import report_page

    with atomic_file(report) as unfinished:
        unfinished.write_text(report_page(pages, false_alarm_rate), encoding="utf-8")
