"""Options that the commands on drawn pictures share, and how they end."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlv.cli.eval_real.results import exit_after, print_results
from vlv.cli.eval_real.sets import CaptionFilesOption
from vlv.cli.options.drawing import NoiseSeedOption
from vlv.cli.options.headings import DIFFUSION, INPUT, MODEL, OUTPUT, PERFORMANCE
from vlv.cli.options.model import DeviceOption, DtypeOption, OffloadOption

if TYPE_CHECKING:
    from vlv.evaluation.real.images.caption_pictures import CaptionSource, DrawingSettings
    from vlv.evaluation.real.images.measured import Measured, Unfinished

SetArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SET",
        help="Real images: COCO (val2014 or its captions_val2014.json), a folder, a .tar shard, a "
        "parquet file.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="The folder of pictures, features, results.", rich_help_panel=OUTPUT
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Take the first images only.", rich_help_panel=INPUT),
]
LookBatchOption = Annotated[
    int,
    typer.Option(
        "--feature-batch-size",
        min=1,
        help="Pictures per batch of the networks that look at them.",
        rich_help_panel=PERFORMANCE,
    ),
]
ResamplesOption = Annotated[
    int,
    typer.Option("--resamples", min=0, help="Resamples of FID's interval; 0 gives none."),
]
FeaturesOption = Annotated[
    str,
    typer.Option(
        "--features",
        help="The network of FID: inception, or an id or folder of transformers or of a VLV model, "
        "for a Frechet distance on its features; none measures no distance.",
        rich_help_panel=MODEL,
    ),
]
InceptionWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--inception-weights",
        help="torch-fidelity's weights of Inception.",
        show_default="fetched once",
        rich_help_panel=MODEL,
    ),
]
DinoOption = Annotated[
    str,
    typer.Option(
        "--dino",
        help="Id or folder of a DINO of transformers; none leaves it out.",
        rich_help_panel=MODEL,
    ),
]
LPIPSOption = Annotated[
    str,
    typer.Option("--lpips", help="Network of LPIPS: alex, vgg or none.", rich_help_panel=MODEL),
]
LPIPSWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--lpips-weights",
        help="torchvision's weights of that network.",
        show_default="fetched once",
        rich_help_panel=MODEL,
    ),
]
ShardOption = Annotated[
    str,
    typer.Option(
        "--shard",
        help="I/N: draw the share of process I of N, which use one --out; whichever finds all "
        "pictures drawn measures them.",
        rich_help_panel=PERFORMANCE,
    ),
]
DINO = "facebook/dinov2-base"
NONE = "none"


@dataclass(frozen=True)
class DrawOptions:
    """How captions become pictures."""

    captions: CaptionFilesOption = None
    human: Annotated[
        bool,
        typer.Option(
            "--human/--no-human",
            help="Draw the first of the captions that the set has, too.",
            rich_help_panel=INPUT,
        ),
    ] = True
    pipeline: Annotated[
        str,
        typer.Option(
            "--pipeline",
            help="Id or folder of a text-to-image pipeline of diffusers, or of a VLV model.",
            rich_help_panel=DIFFUSION,
        ),
    ] = "stabilityai/stable-diffusion-3.5-medium"
    num_inference_steps: Annotated[
        int,
        typer.Option(
            "--num-inference-steps", min=1, help="Denoising steps.", rich_help_panel=DIFFUSION
        ),
    ] = 40
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=16,
            help="Side of a picture in pixels.",
            show_default="the pipeline's own",
            rich_help_panel=DIFFUSION,
        ),
    ] = None
    stored_size: Annotated[
        int | None,
        typer.Option(
            "--stored-size",
            min=64,
            help="Store larger pictures at this size, to save disk.",
            show_default="as drawn",
            rich_help_panel=DIFFUSION,
        ),
    ] = None
    seed: NoiseSeedOption = 0
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, help="Pictures per batch.", rich_help_panel=PERFORMANCE
        ),
    ] = 4
    shard: ShardOption = "1/1"
    device: DeviceOption = None
    dtype: DtypeOption = None
    offload: OffloadOption = False

    def source(self, images: Path, out: Path, limit: int | None) -> "CaptionSource":
        """What is drawn.

        Raises:
            ConfigError: two captioners have one name, or --shard is no share.
        """
        from vlv.evaluation.real.captions_file import named_files
        from vlv.evaluation.real.images.caption_pictures import CaptionSource
        from vlv.evaluation.real.images.drawing import Shard

        files = named_files(self.captions or [])
        return CaptionSource(images, out, files, self.human, limit, Shard.parse(self.shard))

    def settings(self, guidance: list[float]) -> "DrawingSettings":
        """How it is drawn."""
        from vlv.evaluation.real.images.caption_pictures import DrawingSettings

        return DrawingSettings(
            self.pipeline,
            tuple(guidance),
            self.num_inference_steps,
            self.size,
            self.stored_size,
            self.seed,
            self.batch_size,
            self.device,
            self.dtype,
            self.offload,
        )


def guidance_scales(shown_default: str) -> Any:
    """The option for one or more guidance scales."""
    return typer.Option(
        "--guidance-scale",
        min=1.0,
        help="Scale of classifier-free guidance; 1 disables it. May be repeated.",
        show_default=shown_default,
        rich_help_panel=DIFFUSION,
    )


def given(name: str) -> str | None:
    """A name, or None for `none`."""
    return None if name.lower() == NONE else name


def finish(measured: "Measured | Unfinished | None", as_json: bool) -> None:
    """Print what was measured, name what was left out, and exit."""
    from vlv.evaluation.real.images.measured import Unfinished

    if measured is None or isinstance(measured, Unfinished):
        left = 0 if measured is None else measured.left
        if as_json:
            typer.echo(json.dumps({"left": left}))
        elif left:
            typer.echo(
                f"drew this process's share; {left:,} pictures are left for others, and nothing is "
                "measured before they are drawn"
            )
        else:
            typer.echo("all pictures are drawn")
        return
    print_results(measured.result, measured.files, as_json)
    exit_after(left_out=measured.left_out)
