"""`vlv eval reconstruction`: pictures drawn from caption embeddings, against their images."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.eval_real.picture_options import (
    DINO,
    DinoOption,
    FeaturesOption,
    InceptionWeightsOption,
    LimitOption,
    LookBatchOption,
    LPIPSOption,
    LPIPSWeightsOption,
    OutOption,
    ResamplesOption,
    SetArgument,
    ShardOption,
    finish,
    given,
    guidance_scales,
)
from vlv.cli.eval_real.sets import named_models
from vlv.cli.options.drawing import NumInferenceStepsOption, SchedulerOption
from vlv.cli.options.files import JsonOption
from vlv.cli.options.headings import DIFFUSION, MODEL, PERFORMANCE
from vlv.cli.options.model import DeviceOption, DtypeOption, OffloadOption


def reconstruction(
    source: SetArgument,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A VLV model, as NAME=MODEL or MODEL: an id, a folder, the authors' checkpoint. "
            "May be repeated.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    guidance_scale: Annotated[list[float] | None, guidance_scales("2")] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(
            "--seed",
            help="Seed of the initial noise. May be repeated: figures are then means over seeds.",
            show_default="0",
            rich_help_panel=DIFFUSION,
        ),
    ] = None,
    num_inference_steps: NumInferenceStepsOption = 50,
    scheduler: SchedulerOption = "ddim",
    features: FeaturesOption = "inception",
    inception_weights: InceptionWeightsOption = None,
    dino: DinoOption = DINO,
    lpips: LPIPSOption = "alex",
    lpips_weights: LPIPSWeightsOption = None,
    resamples: ResamplesOption = 100,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, help="Pictures per batch.", rich_help_panel=PERFORMANCE
        ),
    ] = 8,
    feature_batch_size: LookBatchOption = 32,
    shard: ShardOption = "1/1",
    out: OutOption = Path("vlv-eval-reconstruction"),
    limit: LimitOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offload: OffloadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct images from their caption embeddings, and compare with the images.

    FID, KID, LPIPS, PSNR, SSIM and the similarity of DINO's features: a row for each model and
    guidance scale, with intervals, and the pictures of other images as a control. Writes
    reconstruction.json and reconstruction.html. The same command continues a run that was
    interrupted. Images that were left out are named, and the exit code is then 1.
    """
    from vlv.cli.common import progress
    from vlv.evaluation.real.images.drawing import Shard
    from vlv.evaluation.real.images.reconstructing import ReconstructionSettings
    from vlv.evaluation.real.images.reconstruction import (
        ReconstructionTableSettings,
        measure_reconstruction,
    )

    drawing = ReconstructionSettings(
        tuple(guidance_scale or [2.0]),
        tuple(seeds or [0]),
        num_inference_steps,
        scheduler,
        Shard.parse(shard),
        batch_size,
        device,
        dtype,
        offload,
    )
    settings = ReconstructionTableSettings(
        source,
        out,
        named_models(models or []),
        drawing,
        given(features),
        inception_weights,
        given(dino),
        given(lpips),
        lpips_weights,
        limit,
        resamples,
        feature_batch_size,
    )
    finish(measure_reconstruction(settings, progress), as_json)
