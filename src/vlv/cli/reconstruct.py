"""`vlv reconstruct` and `vlv compose`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlv.cli.caption import BatchSizeOption, RecursiveOption
from vlv.cli.failures import Failures, refuse_none, shown
from vlv.cli.options import (
    DEFAULT_MODEL,
    DeviceOption,
    DtypeOption,
    GuidanceScaleOption,
    JsonOption,
    ModelOption,
    NumInferenceStepsOption,
    OverwriteOption,
    RevisionOption,
    SchedulerOption,
    SeedOption,
)
from vlv.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from PIL import Image

    from vlv.inference.embeddings import SavedEmbeddings
    from vlv.inference.reconstruction import Reconstructed

_SAVED = ".safetensors"
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
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
    guidance_scale: GuidanceScaleOption = 2.0,
    num_inference_steps: NumInferenceStepsOption = 50,
    scheduler: SchedulerOption = "ddim",
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = 8,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Draw images again from their caption embeddings, or from their captions.

    Every picture starts from the noise of --seed. A file that cannot be read is named on standard
    error and stops no other; the exit code is then 1.
    """
    from vlv.inference.embeddings import load_embeddings
    from vlv.inference.sources import find_images

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
    targets = _targets(names, out, one=len(names) == 1 and not os.path.isdir(paths[0]))
    _keep_inputs([Path(name) for name in names], targets)
    _keep_existing(targets, overwrite)

    from vlv.cli.progress import progress
    from vlv.inference.encoding import Source, encode_images
    from vlv.inference.loading import open_model
    from vlv.inference.reconstruction import DrawSettings, reconstruct_encoded, saved_as_encoded
    from vlv.inference.sources import Refused

    settings = DrawSettings(guidance_scale, num_inference_steps, scheduler, seed)
    opened = open_model(model, revision=revision, device=device, dtype=dtype)
    encoded = (
        encode_images(opened, [Source.of_file(Path(name)) for name in names], batch_size=batch_size)
        if saved is None
        else saved_as_encoded(opened, saved)
    )
    results = reconstruct_encoded(opened, encoded, settings, via=via, batch_size=batch_size)
    for target, result in zip(targets, progress(results, total=len(names)), strict=True):
        if isinstance(result, Refused):
            failures.add(result)
            continue
        try:
            _save(_beside_original(result) if compare else result.picture, target)
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
) -> None:
    """Draw one image from the first embeddings of A followed by the first of B.

    The two numbers together are at most the text tower's positions (77).
    """
    _check_picture(out)
    _keep_inputs([a, b], [out])
    _keep_existing([out], overwrite)

    from vlv.inference.composition import compose_pictures
    from vlv.inference.loading import open_model
    from vlv.inference.reconstruction import DrawSettings

    settings = DrawSettings(guidance_scale, num_inference_steps, scheduler, seed)
    opened = open_model(model, revision=revision, device=device, dtype=dtype)
    picture = compose_pictures(opened, a, b, keep_a=keep_a, keep_b=keep_b, settings=settings)
    _save(picture, out)
    typer.echo(json.dumps({"out": str(out)}) if as_json else shown(out))


def _targets(names: Sequence[str], out: Path | None, *, one: bool) -> list[Path]:
    """Where each picture goes; no two to the same place."""
    if one and out is not None and out.suffix and not out.is_dir():
        _check_picture(out)
        return [out]
    if out is not None and out.suffix.lower() in _PICTURES:
        raise ConfigError(f"{out} would hold {len(names)} pictures; name a folder with --out")
    taken: dict[str, int] = {}
    targets = []
    for name in names:
        stem = Path(name).stem
        taken[stem] = taken.get(stem, 0) + 1
        number = f"-{taken[stem]}" if taken[stem] > 1 else ""
        targets.append((out or Path()) / f"{stem}-reconstruction{number}.png")
    return targets


def _check_picture(out: Path) -> None:
    if out.suffix.lower() not in _PICTURES:
        raise ConfigError(f"{out} is no name of a picture; end it in {', '.join(_PICTURES)}")


def _keep_inputs(inputs: Sequence[Path], targets: Sequence[Path]) -> None:
    """No picture is written over an image that it is made of."""
    originals = {os.path.realpath(path) for path in inputs}
    for target in targets:
        if os.path.realpath(target) in originals:
            raise ConfigError(f"{target} would replace the original; choose another --out")


def _keep_existing(targets: Sequence[Path], overwrite: bool) -> None:
    """Told before the work: whether a picture would replace a file that nobody gave up."""
    existing = [] if overwrite else [target for target in targets if os.path.lexists(target)]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ConfigError(
            f"{existing[0]}{more} exists already; choose another --out or replace it with "
            "--overwrite"
        )


def _save(picture: "Image.Image", target: Path) -> None:
    from vlv.data.files import atomic_file

    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as unfinished:
        # The unfinished file's name does not tell the format.
        picture.save(unfinished, _format_of(target))


def _format_of(target: Path) -> str:
    return {".png": "PNG", ".webp": "WEBP"}.get(target.suffix.lower(), "JPEG")


def _beside_original(result: "Reconstructed") -> "Image.Image":
    from vlv.data.images import load_image
    from vlv.inference.grid import Row, enlarged, picture_grid

    return picture_grid(
        [Row("", [load_image(Path(result.name)), result.picture])],
        cell=enlarged(result.picture.size, _COMPARED),
        column_labels=["original", "from its caption" if result.caption else "from embeddings"],
        column_texts=["", result.caption] if result.caption else [],
    )


def _report(result: "Reconstructed", target: Path, as_json: bool) -> None:
    if result.cut:
        typer.echo(
            f"vlv: warning: the caption of {shown(result.name)} is longer than the text tower "
            "reads; the picture shows its beginning",
            err=True,
        )
    if as_json:
        record = {"file_name": result.name, "out": str(target)}
        typer.echo(json.dumps(record | ({"caption": result.caption} if result.caption else {})))
    else:
        typer.echo(shown(target))
