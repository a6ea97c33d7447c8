"""`vlv reconstruct` and `vlv compose`."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlv.cli.failures import Failures, refuse_none
from vlv.cli.opening import smallest, tell_differences
from vlv.cli.options import (
    DEFAULT_MAX_MEGAPIXELS,
    DEFAULT_MODEL,
    BatchSizeOption,
    DeviceOption,
    DtypeOption,
    GuidanceScaleOption,
    JsonOption,
    MaxMegapixelsOption,
    ModelOption,
    NumInferenceStepsOption,
    OffloadOption,
    OverwriteOption,
    PresetGuidanceScaleOption,
    PresetOption,
    PresetSchedulerOption,
    PresetStepsOption,
    QuantizationOption,
    RecursiveOption,
    RevisionOption,
    SchedulerOption,
    SeedOption,
    pixels,
)
from vlv.cli.picture_files import (
    check_picture,
    keep_existing,
    keep_inputs,
    picture_targets,
    save_picture,
)
from vlv.errors import ConfigError, ImageError
from vlv.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from vlv.checkpoints.memory import Work
    from vlv.inference.embeddings import SavedEmbeddings
    from vlv.inference.reconstruction import DrawSettings, Reconstructed

_SAVED = ".safetensors"
# Pictures of --compare are enlarged to at least this many pixels.
_COMPARED = 256


def reconstruct(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Images, folders of images, or one file that `vlv encode` wrote.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File for one picture, folder for many; NAME-reconstruction.png in the current "
            "folder if not given.",
            show_default=False,
        ),
    ] = None,
    recursive: RecursiveOption = False,
    via: Annotated[
        Literal["embeddings", "caption"],
        typer.Option("--via", help="Draw from the caption embeddings, or from the caption alone."),
    ] = "embeddings",
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the original beside the reconstruction.")
    ] = False,
    preset: PresetOption = None,
    guidance_scale: PresetGuidanceScaleOption = None,
    num_inference_steps: PresetStepsOption = None,
    scheduler: PresetSchedulerOption = None,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = "8",
    max_megapixels: MaxMegapixelsOption = DEFAULT_MAX_MEGAPIXELS,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    offload: OffloadOption = False,
) -> None:
    """Draw images again from their caption embeddings, or from their captions.

    Every picture starts from the noise of --seed. A file that cannot be read is named on standard
    error and stops no other; the exit code is then 1.
    """
    from vlv.inference.batching import batch_size as parsed_batch_size
    from vlv.inference.embeddings import load_embeddings
    from vlv.inference.inputs import find_images

    size, cap = parsed_batch_size(batch_size), pixels(max_megapixels)
    failures = Failures(as_json)
    saved: SavedEmbeddings | None = None
    if any(path.suffix == _SAVED for path in paths):
        if len(paths) > 1 or compare:
            raise ConfigError(
                "a file of saved embeddings is given alone, and without --compare, which needs "
                "the image itself"
            )
        saved = load_embeddings(paths[0])
        names = saved.file_names
    else:
        found = find_images(paths, recursive=recursive)
        refuse_none(found, paths, recursive)
        failures.add(*found.refused)
        names = [str(image) for image in found.images]
    targets = picture_targets(names, out, one=len(names) == 1 and not os.path.isdir(paths[0]))
    keep_inputs([Path(name) for name in names], targets)
    keep_existing(targets, overwrite)

    from vlv.cli.progress import progress
    from vlv.inference.embeddings import saved_as_encoded
    from vlv.inference.encoding import encode_images
    from vlv.inference.loading import open_model
    from vlv.inference.presets import draw_settings
    from vlv.inference.presets import preset as preset_of
    from vlv.inference.reconstruction import reconstruct_encoded
    from vlv.inference.records import Encoded, ImageInput, Refused

    chosen = preset_of(preset)
    settings = draw_settings(
        chosen,
        {
            "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps,
            "scheduler": scheduler,
            "seed": seed,
        },
    )
    opened = open_model(
        model,
        revision=revision,
        device=device,
        dtype=dtype or chosen.dtype,
        quantization=quantization,
        offload=offload,
        work=_work(via, encodes=saved is None, batch_size=smallest(size), settings=settings),
    )
    if saved is None:
        tell_differences(chosen, opened)
        sources = [ImageInput.of_file(Path(name), cap) for name in names]
        encoded: Iterable[Encoded | Refused] = encode_images(opened, sources, batch_size=size)
    else:
        encoded = saved_as_encoded(opened, saved)
    results = reconstruct_encoded(
        opened, encoded, settings, via=via, captions=chosen.captions, batch_size=size
    )
    for target, result in zip(targets, progress(results, total=len(names)), strict=True):
        if isinstance(result, Refused):
            failures.add(result)
            continue
        try:
            save_picture(_beside_original(result, cap) if compare else result.picture, target)
        except ImageError as error:  # the original has gone since it was encoded
            failures.add(Refused(result.name, error.reason, str(error)))
        except OSError as error:
            message = f"the picture {target} cannot be written ({error})"
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
    keep_a: Annotated[
        int, typer.Option("--keep-a", min=0, help="Embeddings to keep of the first.")
    ],
    keep_b: Annotated[
        int, typer.Option("--keep-b", min=0, help="Embeddings to keep of the second.")
    ],
    order: Annotated[
        Literal["leading", "trailing"],
        typer.Option(
            "--order",
            help="Which of the second: its first, as in the paper, or its last, at their places.",
        ),
    ] = "leading",
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path(
        "composition.png"
    ),
    guidance_scale: GuidanceScaleOption = 2.0,
    num_inference_steps: NumInferenceStepsOption = 50,
    scheduler: SchedulerOption = "ddim",
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offload: OffloadOption = False,
) -> None:
    """Draw one image from the first embeddings of A followed by embeddings of B.

    The two numbers together are at most the text tower's positions (77).
    """
    check_picture(out)
    keep_inputs([a, b], [out])
    keep_existing([out], overwrite)

    from vlv.inference.loading import open_model
    from vlv.inference.reconstruction import DrawSettings, compose_pictures

    settings = DrawSettings(guidance_scale, num_inference_steps, scheduler, seed)
    opened = open_model(
        model,
        revision=revision,
        device=device,
        dtype=dtype,
        offload=offload,
        work=_work("embeddings", encodes=True, batch_size=1, settings=settings),
    )
    picture = compose_pictures(
        opened, a, b, keep_a=keep_a, keep_b=keep_b, settings=settings, order=order
    )
    save_picture(picture, out)
    typer.echo(json.dumps({"out": str(out)}) if as_json else printable(out))


def _work(via: str, *, encodes: bool, batch_size: int, settings: "DrawSettings") -> "Work":
    """What the model is opened for: of saved embeddings nothing is encoded."""
    from vlv.checkpoints.memory import Work
    from vlv.checkpoints.parts import CAPTIONING, DRAWING

    boxes = dict.fromkeys(DRAWING + (CAPTIONING if via == "caption" else ()))
    if not encodes:
        del boxes["encoder"]
    return Work(tuple(boxes), batch_size, guidance=settings.guidance_scale > 1)


def _beside_original(result: "Reconstructed", max_pixels: int) -> "Image.Image":
    from vlv.data.images import load_image
    from vlv.inference.grid import Row, enlarged, picture_grid

    return picture_grid(
        [Row("", [load_image(result.name, max_pixels=max_pixels), result.picture])],
        cell=enlarged(result.picture.size, _COMPARED),
        column_labels=["original", "from its caption" if result.caption else "from embeddings"],
        column_texts=["", result.caption] if result.caption else [],
    )


def _report(result: "Reconstructed", target: Path, as_json: bool) -> None:
    if result.cut:
        typer.echo(
            f"vlv: warning: the caption of {printable(result.name)} is longer than the text tower "
            "reads; the picture shows its beginning",
            err=True,
        )
    if as_json:
        record = {"file_name": result.name, "out": str(target)}
        typer.echo(json.dumps(record | ({"caption": result.caption} if result.caption else {})))
    else:
        typer.echo(printable(target))
