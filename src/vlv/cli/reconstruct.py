"""`vlv reconstruct` and `vlv compose`: images from caption embeddings."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlv.cli.common import (
    Failures,
    note_differences,
    progress,
    require_images,
    smallest,
)
from vlv.cli.option_groups import DiffusionOptions, OffloadModelOptions, PresetModelOptions
from vlv.cli.options.drawing import (
    GuidanceScaleOption,
    NoiseSeedOption,
    NumInferenceStepsOption,
    PresetSchedulerOption,
)
from vlv.cli.options.files import JsonOption, OverwriteOption, RecursiveOption
from vlv.cli.options.headings import DIFFUSION, OUTPUT
from vlv.cli.options.limits import (
    DEFAULT_MAX_MEGAPIXELS,
    BatchSizeOption,
    MaxMegapixelsOption,
    pixels,
)
from vlv.cli.options.model import NumQueriesOption
from vlv.cli.picture_files import (
    check_picture,
    keep_existing,
    keep_inputs,
    picture_targets,
    save_picture,
)
from vlv.errors import ConfigError, ImageError
from vlv.models.config import CAPTION_START
from vlv.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from vlv.checkpoints.memory import Work
    from vlv.inference.embeddings import SavedEmbeddings
    from vlv.inference.reconstruction import DrawSettings, Reconstructed

_SAVED = ".safetensors"
# Images of --compare are enlarged to at least this many pixels.
_COMPARED = 256
_DRAWN_FROM = {"embeddings": "from embeddings", "caption": "from its caption", "both": "from both"}


def reconstruct(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Images, folders of images, or one file that `vlv encode` wrote.",
            show_default=False,
        ),
    ],
    diffusion: DiffusionOptions,
    model_options: PresetModelOptions,
    recursive: RecursiveOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A file for one image, or a folder for many.",
            show_default="NAME-reconstruction.png in the current folder",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Show the original beside the reconstruction.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    via: Annotated[
        Literal["embeddings", "caption", "both"],
        typer.Option(
            "--via",
            help="Reconstruct from the caption embeddings, from the caption only, or from the "
            "embeddings in the first steps and the caption in the last ones.",
            rich_help_panel=DIFFUSION,
        ),
    ] = "embeddings",
    caption_start: Annotated[
        float | None,
        typer.Option(
            "--caption-start",
            help="With --via both: the share of the denoising after which the caption is used, "
            "between 0 and 1.",
            show_default=str(CAPTION_START),
            rich_help_panel=DIFFUSION,
        ),
    ] = None,
    num_queries: NumQueriesOption = None,
    batch_size: BatchSizeOption = "8",
    max_megapixels: MaxMegapixelsOption = DEFAULT_MAX_MEGAPIXELS,
) -> None:
    """Reconstruct images from their caption embeddings or captions.

    Every image starts from the noise of --seed. An image that cannot be read is named on standard
    error, and the others go on; the exit code is then 1.
    """
    from vlv.inference.batching import batch_size as parsed_batch_size
    from vlv.inference.embeddings import load_embeddings
    from vlv.inference.inputs import find_images
    from vlv.models.conditioning import check_start

    if caption_start is not None and via != "both":
        raise ConfigError(f"--caption-start needs --via both; --via {via} does not use it")
    start = CAPTION_START if caption_start is None else caption_start
    check_start(start)
    size, cap = parsed_batch_size(batch_size), pixels(max_megapixels)
    failures = Failures(as_json)
    saved: SavedEmbeddings | None = None
    if any(path.suffix == _SAVED for path in paths):
        if len(paths) > 1 or compare:
            raise ConfigError(
                "saved embeddings must be the only input, and cannot be used with --compare, which "
                "needs the image"
            )
        saved = load_embeddings(paths[0])
        names = saved.file_names
    else:
        found = find_images(paths, recursive=recursive)
        require_images(found, paths, recursive)
        failures.add(*found.refused)
        names = [str(image) for image in found.images]
    targets = picture_targets(names, out, one=len(names) == 1 and not os.path.isdir(paths[0]))
    keep_inputs([Path(name) for name in names], targets)
    keep_existing(targets, overwrite)

    from vlv.inference.embeddings import saved_as_encoded
    from vlv.inference.encoding import encode_images
    from vlv.inference.reconstruction import reconstruct_encoded
    from vlv.inference.records import Encoded, ImageInput, Refused

    preset = model_options.chosen_preset
    settings = diffusion.settings(preset)
    opened = model_options.open(
        _work(via, encodes=saved is None, batch_size=smallest(size), settings=settings)
    )
    if via == "both":
        opened.check_late_captions()  # before anything is captioned
    if saved is None:
        note_differences(preset, opened)
        sources = [ImageInput.of_file(Path(name), cap) for name in names]
        encoded: Iterable[Encoded | Refused] = encode_images(
            opened, sources, batch_size=size, num_queries=num_queries
        )
    else:
        encoded = saved_as_encoded(opened, saved, num_queries)
    results = reconstruct_encoded(
        opened,
        encoded,
        settings,
        via=via,
        captions=preset.captions,
        caption_start=start,
        batch_size=size,
    )
    for target, result in zip(targets, progress(results, total=len(names)), strict=True):
        if isinstance(result, Refused):
            failures.add(result)
            continue
        try:
            save_picture(_beside_original(result, cap, via) if compare else result.picture, target)
        except ImageError as error:  # the original was removed after it was encoded
            failures.add(Refused(result.name, error.reason, str(error)))
        except OSError as error:
            message = f"the image {target} cannot be written ({error})"
            failures.add(Refused(result.name, "unwritable", message))
        else:
            _report(result, target, as_json)
    failures.exit()


def compose(
    a: Annotated[
        Path,
        typer.Argument(help="The first image, or its saved embeddings.", show_default=False),
    ],
    b: Annotated[
        Path,
        typer.Argument(help="The second image, or its saved embeddings.", show_default=False),
    ],
    model_options: OffloadModelOptions,
    keep_a: Annotated[
        int,
        typer.Option(
            "--keep-a",
            min=0,
            help="Number of embeddings to keep of the first image.",
            rich_help_panel=DIFFUSION,
        ),
    ],
    keep_b: Annotated[
        int,
        typer.Option(
            "--keep-b",
            min=0,
            help="Number of embeddings to keep of the second image.",
            rich_help_panel=DIFFUSION,
        ),
    ],
    order: Annotated[
        Literal["leading", "trailing"],
        typer.Option(
            "--order",
            help="Which embeddings of the second image are kept: the leading ones, as in the "
            "paper, or the trailing ones at their own positions.",
            rich_help_panel=DIFFUSION,
        ),
    ] = "leading",
    guidance_scale: GuidanceScaleOption = 2.0,
    num_inference_steps: NumInferenceStepsOption = 25,
    scheduler: PresetSchedulerOption = None,
    seed: NoiseSeedOption = 0,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The image file to write.", rich_help_panel=OUTPUT),
    ] = Path("composition.png"),
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Generate one image from the first embeddings of A followed by embeddings of B.

    Both numbers together are at most the positions of the text tower (77).
    """
    check_picture(out)
    keep_inputs([a, b], [out])
    keep_existing([out], overwrite)

    from vlv.inference.reconstruction import DrawSettings, compose_pictures

    settings = DrawSettings(guidance_scale, num_inference_steps, scheduler, seed)
    opened = model_options.open(_work("embeddings", encodes=True, batch_size=1, settings=settings))
    picture = compose_pictures(
        opened, a, b, keep_a=keep_a, keep_b=keep_b, settings=settings, order=order
    )
    save_picture(picture, out)
    typer.echo(json.dumps({"out": str(out)}) if as_json else printable(out))


def _work(via: str, *, encodes: bool, batch_size: int, settings: "DrawSettings") -> "Work":
    """What the model is opened for. Saved embeddings need no encoder."""
    from vlv.checkpoints.memory import Work
    from vlv.checkpoints.parts import CAPTIONING, DRAWING

    boxes = dict.fromkeys(DRAWING + (() if via == "embeddings" else CAPTIONING))
    if not encodes:
        del boxes["encoder"]
    return Work(tuple(boxes), batch_size, guidance=settings.guidance_scale > 1)


def _beside_original(result: "Reconstructed", max_pixels: int, via: str) -> "Image.Image":
    from vlv.data.images import load_image
    from vlv.inference.grid import Row, enlarged, picture_grid

    return picture_grid(
        [Row("", [load_image(result.name, max_pixels=max_pixels), result.picture])],
        cell=enlarged(result.picture.size, _COMPARED),
        column_labels=["original", _DRAWN_FROM[via]],
        column_texts=["", result.caption] if result.caption else [],
    )


def _report(result: "Reconstructed", target: Path, as_json: bool) -> None:
    if result.cut:
        typer.echo(
            f"vlv: warning: the caption of {printable(result.name)} is longer than the text tower "
            "accepts; the image shows its beginning",
            err=True,
        )
    if as_json:
        record = {"file_name": result.name, "out": str(target)}
        typer.echo(json.dumps(record | ({"caption": result.caption} if result.caption else {})))
    else:
        typer.echo(printable(target))
