"""Options that several commands share, so that they are called and described alike."""

from pathlib import Path
from typing import Annotated, Literal

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
    typer.Option(
        "--dtype",
        help="float32, bfloat16 or float16; if not given float32, and bfloat16 for a model of full "
        "size on a GPU.",
    ),
]
QuantizationOption = Annotated[
    Literal["8bit", "4bit"] | None,
    typer.Option(
        "--quantization",
        help="Bits of the language model's weights; needs the extra `quantization`.",
        show_default=False,
    ),
]
OffloadOption = Annotated[
    bool,
    typer.Option("--offload", help="Keep only the part that is at work in the GPU's memory."),
]
PresetOption = Annotated[
    Literal["authors"] | None,
    typer.Option(
        "--preset",
        help="authors: all as the paper's authors run it; flags that are given win.",
        show_default=False,
    ),
]
PathsArgument = Annotated[
    list[Path], typer.Argument(help="Images, and folders of images.", show_default=False)
]
InputsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Images, folders of images, .tar shards, .parquet files, or - for an image on "
        "standard input.",
        show_default=False,
    ),
]
GlobOption = Annotated[
    list[str] | None,
    typer.Option(
        "--glob",
        help="Quoted pattern of image files, ** for any folders; may be repeated.",
        show_default=False,
    ),
]
FilelistOption = Annotated[
    Path | None,
    typer.Option(
        "--filelist",
        help="File of image names, one a line or NUL separated; - is standard input.",
        show_default=False,
    ),
]
RecursiveOption = Annotated[
    bool, typer.Option("--recursive", "-r", help="Search subfolders of folders too.")
]
BatchSizeOption = Annotated[
    str,
    typer.Option(
        "--batch-size",
        help="Images that are worked on at once; auto: fewer where memory runs out.",
    ),
]
ModelBatchSizeOption = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        help="Images that are worked on at once; auto: fewer where memory runs out.",
        show_default="8; 32 if the model sees small images",
    ),
]
NumBeamsOption = Annotated[
    int | None,
    typer.Option(
        "--num-beams", min=1, help="Beams of the search; 1 when sampling.", show_default="4"
    ),
]
NumReturnSequencesOption = Annotated[
    int, typer.Option("--num-return-sequences", min=1, help="Captions of each image.")
]
MaxNewTokensOption = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Longest caption, in tokens.", show_default="300"),
]
MinNewTokensOption = Annotated[
    int, typer.Option("--min-new-tokens", min=0, help="Shortest caption, in tokens.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", min=0.0, help="Above 0: sample instead of search.")
]
TopPOption = Annotated[
    float, typer.Option("--top-p", help="Sample from the likeliest tokens of this mass.")
]
ForcedStartOption = Annotated[
    str, typer.Option("--forced-start", help="Words that the model has to begin captions with.")
]
BannedWordsOption = Annotated[
    str, typer.Option("--banned-words", help="Words that are not written, separated by commas.")
]
DropUnfinishedOption = Annotated[
    bool | None,
    typer.Option(
        "--drop-unfinished/--keep-unfinished",
        help="Drop a last sentence without an end; if not given, where the limit cut it off.",
        show_default=False,
    ),
]
DEFAULT_MAX_MEGAPIXELS = 100.0
DEFAULT_FALSE_ALARM_RATE = 0.05
FalseAlarmRateOption = Annotated[
    float,
    typer.Option(
        "--false-alarm-rate",
        min=0.0,
        max=1.0,
        help="Share of true sentences that may be called unsupported; more finds more errors.",
    ),
]
DropRepeatedOption = Annotated[
    bool | None,
    typer.Option(
        "--drop-repeated/--keep-repeated",
        help="Drop repeated sentences; if not given, where the limit cut a caption off.",
        show_default=False,
    ),
]
PrependOption = Annotated[str, typer.Option("--prepend", help="Text before every caption.")]
AppendOption = Annotated[str, typer.Option("--append", help="Text after every caption.")]
CaptionExtensionOption = Annotated[
    str, typer.Option("--caption-extension", help="Extension of the files of txt.")
]
MaxMegapixelsOption = Annotated[
    float,
    typer.Option(
        "--max-megapixels",
        min=1,
        max=1000,
        help="Refuse larger images; a megapixel takes some 10 MB of memory.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist already.")
]
OverwriteEditedOption = Annotated[
    bool,
    typer.Option(
        "--overwrite-edited",
        help="Replace captions too that were written or edited by hand, or by another program.",
    ),
]
# Of commands that have presets: None is whatever the preset says.
PresetGuidanceScaleOption = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        min=1.0,
        help="Classifier-free guidance; 1 means none.",
        show_default="2.0",
    ),
]
PresetStepsOption = Annotated[
    int | None,
    typer.Option("--num-inference-steps", min=1, help="Denoising steps.", show_default="50"),
]
PresetSchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="ddim, ddpm, dpm++, euler, or the name of a diffusers scheduler class.",
        show_default="ddim",
    ),
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


def words(listed: str) -> tuple[str, ...]:
    """Those of a list separated by commas."""
    return tuple(word for word in listed.split(",") if word.strip())


def pixels(megapixels: float) -> int:
    """Of an image with so many megapixels."""
    return int(megapixels * 1_000_000)
