"""Options that several commands share, so that they are called and described alike."""

from typing import Annotated

import typer

DEFAULT_MODEL = "vlv-mini"

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        envvar="VLV_MODEL",
        help="vlv-mini (in the package), a model folder, or an id on the Hugging Face Hub.",
    ),
]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub id.")
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, mps; chosen by what is there if not given."),
]
DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, bfloat16 or float16; float32 if not given."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist already.")
]
GuidanceScaleOption = Annotated[
    float, typer.Option("--guidance-scale", min=1.0, help="Classifier-free guidance; 1 means none.")
]
NumInferenceStepsOption = Annotated[
    int, typer.Option("--num-inference-steps", min=1, help="Denoising steps.")
]
SchedulerOption = Annotated[
    str,
    typer.Option(
        "--scheduler", help="ddim, ddpm, dpm++, euler, or the name of a diffusers scheduler class."
    ),
]
