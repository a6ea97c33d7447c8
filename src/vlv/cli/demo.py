"""`vlv demo`: captions and reconstructions of a few scenes, in one image."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.options.drawing import GuidanceScaleOption, NumInferenceStepsOption, SeedOption
from vlv.cli.options.files import OverwriteOption
from vlv.cli.options.headings import MODEL
from vlv.cli.options.model import DEFAULT_MODEL, DeviceOption
from vlv.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from vlv.inference.reconstruction import DrawSettings
    from vlv.models.vlv import VLVModel

# Held-out scenes of one, two and three objects that differ in all facts.
PICTURE = Path("vlv-demo.png")
SPLIT = "test"
SCENES = (29, 1, 3, 6, 12, 42)
_ENLARGED = 3


@dataclass(frozen=True)
class Demo:
    """Captions of the scenes, in order, and the image that shows everything."""

    captions: list[str]
    picture: "Image.Image"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = PICTURE,
    guidance_scale: GuidanceScaleOption = 2.0,
    num_inference_steps: NumInferenceStepsOption = 25,
    seed: SeedOption = 0,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="vlv-mini, or a model folder that was trained on the same scenes.",
            rich_help_panel=MODEL,
        ),
    ] = DEFAULT_MODEL,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
) -> None:
    """Caption and reconstruct example scenes with the bundled model. Needs no network.

    Prints the captions and writes one image with a column per scene: the original, the
    reconstruction from the caption embeddings, and the image generated from the caption.
    """
    from vlv.errors import ConfigError

    if out.suffix.lower() != ".png":
        raise ConfigError(f"the demo writes a PNG, so {out} must end in .png")
    if out != PICTURE and out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already; name another file or give --overwrite")
    # Fails before the work rather than after it.
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    from vlv.files import atomic_file
    from vlv.inference.loading import open_model
    from vlv.inference.reconstruction import DrawSettings

    settings = DrawSettings(guidance_scale, num_inference_steps, seed=seed)
    made = run_demo(open_model(model, device=device), settings)
    for number, text in enumerate(made.captions, start=1):
        typer.echo(f"{number}. {text}")
    with atomic_file(out) as unfinished:
        made.picture.save(unfinished, "PNG")
    seconds = time.perf_counter() - started
    typer.echo(
        f"\n{printable(out)}: {len(made.captions)} scenes; the originals, reconstructions from "
        f"caption embeddings, and images generated from captions ({seconds:.0f} s)"
    )


def run_demo(model: "VLVModel", settings: "DrawSettings") -> Demo:
    """Caption and reconstruct the scenes `SCENES`."""
    from PIL import Image

    from vlv.inference.captioning import caption_encoded
    from vlv.inference.grid import Row, enlarged, picture_grid
    from vlv.inference.records import Captioned, Encoded, ImageInput
    from vlv.world.render import render
    from vlv.world.scene import sample_scene

    originals = [Image.fromarray(render(sample_scene(scene, SPLIT))) for scene in SCENES]
    z = model.encode(originals)
    images = [
        ImageInput(f"scene {scene}", one) for scene, one in zip(SCENES, originals, strict=True)
    ]
    encoded = [Encoded(image, one) for image, one in zip(images, z, strict=True)]
    results = caption_encoded(model, encoded, batch_size=len(encoded))
    captions = [one.caption if isinstance(one, Captioned) else "" for one in results]
    drawing = settings.drawing(len(originals))
    picture = picture_grid(
        [
            Row("original", originals),
            Row("reconstruction\nfrom embeddings", model.reconstruct(z, **drawing).images),
            Row("picture drawn\nfrom the caption", model.draw(captions, **drawing).images),
        ],
        cell=enlarged(originals[0].size, _ENLARGED * originals[0].width),
        column_labels=[str(number) for number in range(1, len(originals) + 1)],
        column_texts=captions,
        texts_label="caption",
    )
    return Demo(captions, picture)
