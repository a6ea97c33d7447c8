"""`vlv eval boxes3d`: 3D boxes of real images and of pictures drawn from their embeddings."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.eval_real.endpoint_options import JudgeOptions
from vlv.cli.eval_real.results import (
    RESULT,
    exit_after,
    print_results,
    write_results,
)
from vlv.cli.eval_real.sets import named_models
from vlv.cli.options.drawing import (
    GuidanceScaleOption,
    NoiseSeedOption,
    NumInferenceStepsOption,
    SchedulerOption,
)
from vlv.cli.options.files import JsonOption
from vlv.cli.options.headings import INPUT, MODEL
from vlv.cli.options.model import DeviceOption, DtypeOption

BOXES, PAGE = "boxes.jsonl", "boxes3d.html"


def boxes3d(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SET",
            help="Images: a folder, .tar shards, or parquet files.",
            show_default=False,
        ),
    ],
    models: Annotated[
        list[str],
        typer.Option(
            "--model",
            help="A model of ours that draws the pictures, as NAME=MODEL or MODEL. May be "
            "repeated, for stages 1 of several sizes.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ],
    endpoint: JudgeOptions = JudgeOptions(),  # noqa: B008
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="The first images only.", rich_help_panel=INPUT),
    ] = None,
    guidance_scale: GuidanceScaleOption = 2.0,
    num_inference_steps: NumInferenceStepsOption = 50,
    scheduler: SchedulerOption = "ddim",
    seed: NoiseSeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The folder of pictures, paid answers and results."),
    ] = Path("vlv-eval-boxes3d"),
    as_json: JsonOption = False,
) -> None:
    """How well reconstructions keep the layout: L1 errors of 3D boxes (table 6).

    Each model draws every image from its caption embeddings. A vision-language model (--judge)
    gives the 3D boxes of the objects of the image and of the picture; boxes of one object are
    matched by name and place, and angle, centre and scale are compared. The same command continues
    a run that was interrupted, draws nothing twice and pays for no answer twice. Images without an
    answer are named, and the exit code is then 1.
    """
    from dataclasses import asdict
    from functools import partial

    from vlv.cli.common import progress
    from vlv.errors import ConfigError
    from vlv.evaluation.real.boxes3d import box_lines, box_questions, boxes_result
    from vlv.evaluation.real.boxes3d_page import boxes_page
    from vlv.evaluation.real.boxes3d_pictures import draw_compared
    from vlv.evaluation.real.images.reconstructing import ReconstructionSettings
    from vlv.evaluation.results import environment
    from vlv.files import write_text

    judges = endpoint.judges()
    if not judges:
        raise ConfigError("name a vision-language model with --judge NAME=URL#MODEL")
    endpoint.service()  # what is wrong with prices is said before pictures are drawn
    settings = ReconstructionSettings(
        guidance=(guidance_scale,),
        seeds=(seed,),
        num_inference_steps=num_inference_steps,
        scheduler=scheduler,
        device=device,
        dtype=dtype,
    )
    pictures = draw_compared(source, output, named_models(models), settings, limit, progress)
    questions = partial(box_questions, pictures)
    asked = endpoint.ask(judges, questions, output, "locating objects", images=1, usual_tokens=400)
    if endpoint.dry_run:
        return
    about = {
        "set": str(source),
        "limit": limit,
        "seed": seed,
        "models": {one.name: one.about for one in pictures.drawn},
        "judges": [asdict(judge) for judge in judges],
        **asked.as_json(),
        "environment": environment(),
    }
    result = boxes_result(pictures.drawn, asked.values, seed, about)
    write_results(output, result, box_lines(pictures.drawn, asked.values), BOXES)
    write_text(output / PAGE, boxes_page(result, pictures, asked.values, seed))
    print_results(result, (output / RESULT, output / BOXES, output / PAGE), as_json)
    exit_after(asked, pictures.left_out)
