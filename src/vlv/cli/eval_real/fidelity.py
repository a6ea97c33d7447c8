"""`vlv eval fidelity`: pictures drawn from captions, beside their originals."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.eval_real.picture_options import (
    DINO,
    DinoOption,
    DrawOptions,
    LimitOption,
    LookBatchOption,
    LPIPSOption,
    LPIPSWeightsOption,
    OutOption,
    SetArgument,
    finish,
    given,
    guidance_scales,
)
from vlv.cli.options.files import JsonOption
from vlv.cli.options.headings import MODEL


def fidelity(
    source: SetArgument,
    options: DrawOptions,
    guidance_scale: Annotated[list[float] | None, guidance_scales("2")] = None,
    dino: DinoOption = DINO,
    clip: Annotated[
        str,
        typer.Option(
            "--clip",
            help="Id or folder of a CLIP or SigLIP of transformers; none leaves it out.",
            rich_help_panel=MODEL,
        ),
    ] = "openai/clip-vit-base-patch32",
    lpips: LPIPSOption = "alex",
    lpips_weights: LPIPSWeightsOption = None,
    feature_batch_size: LookBatchOption = 32,
    out: OutOption = Path("vlv-eval-pictures"),
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw captions by a text-to-image pipeline, and compare each picture with its original.

    By the similarity of DINO's and CLIP's features and by LPIPS: a row for each captioner, with
    intervals, over the same images, and the pictures of other images as a control. Pictures that
    `vlv eval coco-fid` drew into the same --out are not drawn again. Writes fidelity.json and
    fidelity.html. The same command continues a run that was interrupted. Images that were left out
    are named, and the exit code is then 1.
    """
    from vlv.cli.common import progress
    from vlv.evaluation.real.images.fidelity import FidelitySettings, measure_fidelity

    settings = FidelitySettings(
        options.source(source, out, limit),
        options.settings(guidance_scale or [2.0]),
        given(dino),
        given(clip),
        given(lpips),
        lpips_weights,
        feature_batch_size,
    )
    finish(measure_fidelity(settings, progress), as_json)
