"""`vlv verifier`: tell a model folder what evidence against true sentences looks like."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.failures import Failures
from vlv.cli.options import DeviceOption
from vlv.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from vlv.data.samples import Sample

_CAPTIONS = 200_000


def verifier(
    data: Annotated[
        Path,
        typer.Argument(
            help="A set of images with true captions: folder, shards or parquet.",
            show_default=False,
        ),
    ],
    model: Annotated[Path, typer.Option("--model", help="The model folder to add it to.")],
    count: Annotated[int, typer.Option("--count", min=1, help="Images to look at, at most.")] = 300,
    device: DeviceOption = None,
) -> None:
    """Add to a model folder what `vlv verify` needs, from images whose captions can be trusted.

    Takes seconds an image, since the diffusion decoder looks at every sentence.
    """
    from vlv.data.sets import read_set
    from vlv.inference.loading import open_model
    from vlv.verification.fitting import Sayings, fit_verifier, trusted
    from vlv.verification.verifier import add_verifier

    failures = Failures(as_json=False)
    pairs = list(islice(_pairs(read_set(data), failures), count))
    judged = trusted([text for _, text in pairs])
    sayings = Sayings(_captions(read_set(data)), [(one.picture, one.caption) for one in judged])
    images = [image for image, _ in pairs]
    made = fit_verifier(open_model(model, device=device), images, judged, sayings)
    add_verifier(made, model)
    typer.echo(f"{printable(model)}: a verifier from {made.settings.sentences} sentences")
    failures.exit()


def _captions(samples: "Iterable[Sample]") -> list[str]:
    """All captions of the set, up to `_CAPTIONS`: their words are counted, no image is decoded."""
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
