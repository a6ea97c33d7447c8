"""`vlv eval boxes3d`: 3D boxes of real images and of pictures drawn from their embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlv.cli.eval_real.endpoint_options import (
    RESULT,
    JudgeOptions,
    exit_after,
    print_results,
    write_page,
    write_results,
)
from vlv.cli.eval_real.sets import check_names, named_model
from vlv.cli.options import (
    INPUT,
    MODEL,
    DeviceOption,
    DtypeOption,
    GuidanceScaleOption,
    JsonOption,
    NoiseSeedOption,
    NumInferenceStepsOption,
    SchedulerOption,
)

if TYPE_CHECKING:
    from vlv.evaluation.real.boxes3d import Boxes3D
    from vlv.evaluation.real.redrawn import Redrawn
    from vlv.inference.reconstruction import DrawSettings

BOXES, PAGE, PICTURES = "boxes.jsonl", "boxes3d.html", "pictures"


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

    from vlv.cli.common import Failures
    from vlv.errors import ConfigError
    from vlv.evaluation.real.boxes3d import Boxes3D, box_lines, boxes_result
    from vlv.evaluation.real.boxes3d_page import boxes_page
    from vlv.evaluation.results import environment
    from vlv.inference.reconstruction import DrawSettings
    from vlv.inference.records import Refused

    judges = endpoint.judges()
    if not judges:
        raise ConfigError("name a vision-language model with --judge NAME=URL#MODEL")
    endpoint.service()  # what is wrong with prices is said before pictures are drawn
    named = [named_model(text) for text in models]
    check_names([name for name, _ in named])
    settings = DrawSettings(guidance_scale, num_inference_steps, scheduler, seed)
    redrawn = [
        _redraw(name, model, source, output, settings, limit, device, dtype)
        for name, model in named
    ]
    boxes = Boxes3D(source, redrawn, limit, seed)
    asked = endpoint.ask(
        judges, boxes.questions, output, "locating objects", images=1, usual_tokens=400
    )
    if endpoint.dry_run:
        return
    about = {
        "set": str(source),
        "limit": limit,
        "seed": seed,
        "models": {one.name: one.about for one in redrawn},
        "judges": [asdict(judge) for judge in judges],
        "spent": asked.spent,
        "problems": asked.problems,
        "stopped": asked.stopped,
        "not_asked": asked.not_asked,
        "environment": environment(),
    }
    result = boxes_result(boxes, asked.values, about)
    write_results(output, result, box_lines(boxes, asked.values), BOXES)
    write_page(output, boxes_page(result, boxes, asked.values), PAGE)
    print_results(output, result, as_json, (RESULT, BOXES, PAGE))

    def undrawn(failures: Failures) -> None:
        for name, why in _refused(boxes).items():
            failures.add(Refused(name, "left-out", why))

    exit_after(asked, undrawn)


def _redraw(
    name: str,
    model: str,
    source: Path,
    output: Path,
    settings: "DrawSettings",
    limit: int | None,
    device: str | None,
    dtype: str | None,
) -> "Redrawn":
    from vlv.checkpoints.memory import Work
    from vlv.checkpoints.parts import DRAWING
    from vlv.cli.common import progress
    from vlv.evaluation.real.pairs_run import file_name
    from vlv.evaluation.real.redrawn import redraw
    from vlv.inference.loading import open_model

    work = Work(DRAWING, guidance=settings.guidance_scale > 1)
    opened = open_model(model, device=device, dtype=dtype, work=work)
    folder = output / PICTURES / file_name(name)
    return redraw(
        opened, name, source, folder, settings, model_name=model, limit=limit, watch=progress
    )


def _refused(boxes: "Boxes3D") -> dict[str, Any]:
    return {name: why for one in boxes.redrawn for name, why in one.refused.items()}
