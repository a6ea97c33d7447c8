"""What `vlv caption` says before a long job: its plan (`--dry-run`), and its first captions."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vlv.cli.caption_output import Made, Output, first_of_shared
from vlv.text import counted, printable

if TYPE_CHECKING:
    from vlv.inference.inputs import Found
    from vlv.models.vlv import VLVModel

# A dry run captions so many images, and says how long all would take.
SAMPLE = 8
# How many captions a long job shows first, and from how many images on a job is long.
_SHOWN, _LONG = 3, 100


@dataclass(frozen=True)
class Plan:
    """What a run would do: numbers of images by what would become of them. Images in sets are not
    counted, as that takes reading them.
    """

    to_caption: int
    kept: int
    shared: int
    refused: int
    sets: int
    way_to_replace: str


def planned(found: "Found", out: Output) -> tuple[list[Path], Plan]:
    """The images that need a caption, and what is to be done with all."""
    images = found.images
    if out.format == "txt" and out.store is not None:
        images = first_of_shared(images, out.store)
    to_do = [image for image in images if not out.has(image)]
    plan = Plan(
        to_caption=len(to_do),
        kept=len(images) - len(to_do),
        shared=len(found.images) - len(images),
        refused=len(found.refused),
        sets=len(found.sets),
        way_to_replace=out.way_to_replace,
    )
    return to_do, plan


@dataclass(frozen=True)
class Trial:
    """The first images of a run captioned, and how long each took, in seconds."""

    made: Sequence[Made]
    seconds: float


def load_for(model: "VLVModel", *, writes: bool) -> None:
    """Load what captions need, so that a trial does not measure it. writes: the model's own caption
    decoder writes them.
    """
    _ = model.encoder, model.text_tower, model.ood_detector
    if writes:
        _ = model.caption_decoder


def trial(made: Iterable[Made]) -> Trial:
    """Caption the first images. Those that are refused count as none."""
    began = time.perf_counter()
    done = list(made)
    return Trial(done, (time.perf_counter() - began) / max(1, len(done)))


def show_plan(plan: Plan, tried: Trial, device: str, as_json: bool) -> None:
    """Print what a run would do, how long it would take, and its first captions."""
    seconds = tried.seconds * plan.to_caption
    if as_json:
        record = {
            "to_caption": plan.to_caption,
            "kept": plan.kept,
            "shared": plan.shared,
            "refused": plan.refused,
            "sets": plan.sets,
            "seconds": round(seconds, 3) if tried.made else None,
            "preview": [{"file_name": x.result.name, "text": x.texts[0]} for x in tried.made],
        }
        typer.echo(json.dumps(record))
        return
    parts = [f"{plan.to_caption:,} to caption"]
    parts += [f"{plan.kept:,} with captions that stay ({plan.way_to_replace})"] * bool(plan.kept)
    parts += [f"{plan.shared:,} without a caption file of their own"] * bool(plan.shared)
    parts += [f"{plan.refused:,} that cannot be read"] * bool(plan.refused)
    images = plan.to_caption + plan.kept + plan.shared + plan.refused
    sets = f", and the images of {counted(plan.sets, 'set')}" if plan.sets else ""
    typer.echo(f"{counted(images, 'image')}: {', '.join(parts)}{sets}")
    if not tried.made:
        return
    each = f"{tried.seconds:.2g} s an image on {device}, measured on {len(tried.made)}"
    if plan.to_caption:
        typer.echo(f"about {duration(seconds)} ({each}; the model's loading is not counted)")
    else:
        typer.echo(each)
    typer.echo("nothing was written; the first captions would be:")
    for one in tried.made:
        typer.echo(f"{printable(one.result.name)}\t{printable(one.texts[0])}")


def with_preview(made: Iterable[Made], plan: Plan) -> Iterator[Made]:
    """The captioned images; the first captions of a long job are shown on standard error, so that
    a wrong setting is seen before the job is done.
    """
    for number, one in enumerate(made):
        if number < _SHOWN and (plan.to_caption >= _LONG or plan.sets):
            text = printable(one.texts[0])
            typer.echo(f"vlv: preview: {printable(one.result.name)}: {text}", err=True)
        yield one


def duration(seconds: float) -> str:
    """A length of time for people, in its two largest units."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"
