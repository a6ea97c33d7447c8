"""`vlv eval coco-fid`: pictures drawn from captions, against the real ones."""

from pathlib import Path
from typing import Annotated

from vlv.cli.eval_real.picture_options import (
    DrawOptions,
    FeaturesOption,
    InceptionWeightsOption,
    LimitOption,
    LookBatchOption,
    OutOption,
    ResamplesOption,
    SetArgument,
    finish,
    given,
    guidance_scales,
)
from vlv.cli.options.files import JsonOption


def coco_fid(
    source: SetArgument,
    options: DrawOptions,
    guidance_scale: Annotated[list[float] | None, guidance_scales("1, 2, 3 and 4")] = None,
    features: FeaturesOption = "inception",
    inception_weights: InceptionWeightsOption = None,
    feature_batch_size: LookBatchOption = 32,
    resamples: ResamplesOption = 100,
    out: OutOption = Path("vlv-eval-pictures"),
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw captions by a text-to-image pipeline, and measure FID and KID to the real images.

    A row for each captioner and guidance scale, with intervals, over the same images; and the
    differences to the first captioner. Writes coco-fid.json and coco-fid.html, a page with the
    nearest, the farthest and random pictures. The same command continues a run that was
    interrupted. Images that were left out are named, and the exit code is then 1.
    """
    from vlv.cli.common import progress
    from vlv.evaluation.real.images.coco_fid import CocoFIDSettings, measure_coco_fid

    settings = CocoFIDSettings(
        options.source(source, out, limit),
        options.settings(guidance_scale or [1.0, 2.0, 3.0, 4.0]),
        given(features),
        inception_weights,
        resamples,
        feature_batch_size,
    )
    finish(measure_coco_fid(settings, progress), as_json)
