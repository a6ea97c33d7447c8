"""Options for how images are drawn."""

from typing import Annotated

import typer

from vlv.cli.options.headings import DIFFUSION

_SCHEDULERS = "ddim, ddpm, dpm++, dpm++sde, euler, or the name of a scheduler class of diffusers."
GuidanceScaleOption = Annotated[
    float,
    typer.Option(
        "--guidance-scale",
        min=1.0,
        help="Scale of classifier-free guidance; 1 disables it.",
        rich_help_panel=DIFFUSION,
    ),
]
NumInferenceStepsOption = Annotated[
    int,
    typer.Option(
        "--num-inference-steps", min=1, help="Denoising steps.", rich_help_panel=DIFFUSION
    ),
]
SchedulerOption = Annotated[
    str, typer.Option("--scheduler", help=_SCHEDULERS, rich_help_panel=DIFFUSION)
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")]
NoiseSeedOption = Annotated[
    int, typer.Option("--seed", help="Seed of the initial noise.", rich_help_panel=DIFFUSION)
]
# For commands with --preset: None means the preset's value.
PresetGuidanceScaleOption = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        min=1.0,
        help="Scale of classifier-free guidance; 1 disables it.",
        show_default="2.0",
        rich_help_panel=DIFFUSION,
    ),
]
PresetStepsOption = Annotated[
    int | None,
    typer.Option(
        "--num-inference-steps",
        min=1,
        help="Denoising steps.",
        show_default="25",
        rich_help_panel=DIFFUSION,
    ),
]
PresetSchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help=_SCHEDULERS,
        show_default="dpm++sde; euler for flows",
        rich_help_panel=DIFFUSION,
    ),
]
