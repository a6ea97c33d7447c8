"""`vlv ood-detector`: fits a detector of out-of-distribution images to a model folder."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.common import Failures, progress
from vlv.cli.option_groups import InputOptions
from vlv.cli.options import DeviceOption, ModelFolderOption
from vlv.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from vlv.inference.inputs import Found


def ood_detector(
    inputs: InputOptions,
    model: ModelFolderOption,
    quantile: Annotated[
        float,
        typer.Option(
            "--quantile",
            min=0.5,
            max=0.9999,
            help="Share of images like these that count as in-distribution.",
        ),
    ] = 0.99,
    device: DeviceOption = None,
) -> None:
    """Fit a detector of out-of-distribution images and add it to a model folder.

    The images are a sample of those that the model was trained on; a few thousand are enough.
    `vlv caption` then warns of images that are unlike them.
    """
    found = inputs.find()
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
