"""`vlv ood-detector`: tell a model folder what it knows."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.failures import Failures
from vlv.cli.inputs import find
from vlv.cli.options import (
    DeviceOption,
    FilelistOption,
    GlobOption,
    InputsArgument,
    RecursiveOption,
)
from vlv.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from vlv.inference.inputs import Found


def ood_detector(
    model: Annotated[Path, typer.Option("--model", help="The model folder to add it to.")],
    paths: InputsArgument = None,
    patterns: GlobOption = None,
    filelist: FilelistOption = None,
    recursive: RecursiveOption = False,
    quantile: Annotated[
        float,
        typer.Option(
            "--quantile", min=0.5, max=0.9999, help="Share of such images that pass unwarned."
        ),
    ] = 0.99,
    device: DeviceOption = None,
) -> None:
    """Add to a model folder what the images are like that it was trained on, from a sample of them.

    `vlv caption` then warns of images that are unlike them. A few thousand tell enough.
    """
    found = find(paths, patterns, filelist, recursive)
    failures = Failures(as_json=False)
    failures.add(*found.refused)

    from vlv.checkpoints.boxes import add_ood_detector
    from vlv.checkpoints.memory import Work
    from vlv.inference.loading import open_model
    from vlv.models.ood import OODDetector, picture_features

    encoder = open_model(model, device=device, work=Work(("encoder",))).encoder
    features = picture_features(encoder, _pictures(found, failures))
    made = OODDetector.fit(features, quantile)
    add_ood_detector(made, model)
    typer.echo(f"{printable(model)}: OOD detector from {made.settings.count} images")
    failures.exit()


def _pictures(found: "Found", failures: Failures) -> "Iterator[Image.Image]":
    from vlv.cli.progress import progress
    from vlv.errors import ImageError
    from vlv.inference.inputs import inputs_of
    from vlv.inference.records import Refused

    total = None if found.sets else len(found.images)
    for one in progress(inputs_of(found.images, found.sets), total=total):
        if isinstance(one, Refused):
            failures.add(one)
            continue
        try:
            yield one.picture()
        except ImageError as error:
            failures.add(Refused(one.name, error.reason, str(error)))
