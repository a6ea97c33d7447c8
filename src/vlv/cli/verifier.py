"""`vlv verifier`: fits the verifier of sentences to a model folder."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.common import Failures
from vlv.cli.options import DeviceOption, ModelFolderOption
from vlv.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from vlv.data.samples import Sample

_CAPTIONS = 200_000


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

    Only images with captions that can be trusted are of use. Takes seconds per image, since the
    diffusion decoder scores every sentence.
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


def _captions(samples: "Iterable[Sample]") -> list[str]:
    """Up to `_CAPTIONS` captions of the dataset, for counting words. No image is decoded."""
    return list(islice((sample.caption for sample in samples if sample.caption), _CAPTIONS))


def _pairs(samples: "Iterable[Sample]", failures: Failures) -> "Iterable[tuple[Image.Image, str]]":
    from vlv.errors import ImageError
    from vlv.inference.records import Refused

    for sample in samples:
        if not sample.caption:
            message = f"{sample.file_name} has no caption"
            failures.add(Refused(sample.file_name, "no-caption", message))
            continue
        try:
            yield sample.picture(), sample.caption
        except ImageError as error:
            failures.add(Refused(sample.file_name, error.reason, str(error)))
