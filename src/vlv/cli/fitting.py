"""`vlv ood-detector` and `vlv verifier`: fit what judges images and sentences to a model folder."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.common import Failures, progress
from vlv.cli.option_groups import InputOptions
from vlv.cli.options.model import DeviceOption, ModelFolderOption
from vlv.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from vlv.data.samples import Sample
    from vlv.inference.inputs import Found
    from vlv.inference.records import ImageInput

_CAPTIONS = 200_000


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


def verifier(
    data: Annotated[
        Path,
        typer.Argument(
            help="A dataset of images with true captions: a folder, .tar shards or parquet.",
            show_default=False,
        ),
    ],
    model: ModelFolderOption,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of images to use.")] = 300,
    device: DeviceOption = None,
) -> None:
    """Fit what `vlv verify` needs and add it to a model folder.

    Give images that no training saw, with captions that can be trusted: after a fit on images of
    the training, too many true sentences are marked. Takes seconds per image, since the diffusion
    decoder scores every sentence.
    """
    from vlv.data.sets import read_set
    from vlv.inference.loading import open_model
    from vlv.verification.fitting import TrainingCaptions, fit_verifier, trusted
    from vlv.verification.verifier import add_verifier

    failures = Failures(as_json=False)
    pairs = list(islice(_pairs(read_set(data), failures), count))
    judged = trusted([text for _, text in pairs])
    training_captions = TrainingCaptions(
        _captions(read_set(data)), [(one.picture, one.caption) for one in judged]
    )
    images = [image for image, _ in pairs]
    made = fit_verifier(open_model(model, device=device), images, judged, training_captions)
    add_verifier(made, model)
    typer.echo(f"{printable(model)}: a verifier from {made.settings.sentences} sentences")
    failures.exit()


def _pictures(found: "Found", failures: Failures) -> "Iterator[Image.Image]":
    from vlv.inference.inputs import inputs_of
    from vlv.inference.records import Refused

    total = None if found.sets else len(found.images)
    for one in progress(inputs_of(found.images, found.sets), total=total):
        if isinstance(one, Refused):
            failures.add(one)
        elif (picture := _decoded(one, one.name, failures)) is not None:
            yield picture


def _pairs(samples: "Iterable[Sample]", failures: Failures) -> "Iterator[tuple[Image.Image, str]]":
    from vlv.inference.records import Refused

    for sample in samples:
        if not sample.caption:
            message = f"{sample.file_name} has no caption"
            failures.add(Refused(sample.file_name, "no-caption", message))
        elif (picture := _decoded(sample, sample.file_name, failures)) is not None:
            yield picture, sample.caption


def _decoded(one: "ImageInput | Sample", name: str, failures: Failures) -> "Image.Image | None":
    """The picture, or None for one that is refused."""
    from vlv.errors import ImageError
    from vlv.inference.records import Refused

    try:
        return one.picture()
    except ImageError as error:
        failures.add(Refused(name, error.reason, str(error)))
        return None


def _captions(samples: "Iterable[Sample]") -> list[str]:
    """Up to `_CAPTIONS` captions of the dataset, for counting words. No image is decoded."""
    return list(islice((sample.caption for sample in samples if sample.caption), _CAPTIONS))
