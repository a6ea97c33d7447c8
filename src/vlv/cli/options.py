"""Options that several commands share, so that they have one name and one description.

Groups of them are in option_groups.py. The constants at the top are headings of `--help`.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

INPUT = "Input"
OUTPUT = "Output"
GENERATION = "Caption generation"
CHECKS = "Checks of captions"
DIFFUSION = "Image generation"
MODEL = "Model"
PERFORMANCE = "Performance and limits"
WORKERS = "Workers"
NETWORK = "Network"
ACCESS = "Access"
TEACHER = "Teacher"
BUDGET = "Budget"
SELECTION = "Selection"
# In the order in which help shows them.
HEADINGS = (
    NETWORK,
    ACCESS,
    TEACHER,
    BUDGET,
    SELECTION,
    INPUT,
    OUTPUT,
    GENERATION,
    CHECKS,
    DIFFUSION,
    MODEL,
    PERFORMANCE,
    WORKERS,
)

DEFAULT_MODEL = "vlv-mini"
DEFAULT_FALSE_ALARM_RATE = 0.05
DEFAULT_MAX_MEGAPIXELS = 100.0

# Input.
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
        help="Quoted pattern of image files; ** matches any folders. May be repeated.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
FilelistOption = Annotated[
    Path | None,
    typer.Option(
        "--filelist",
        help="File of image names, one per line or separated by NUL; - is standard input.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
RecursiveOption = Annotated[
    bool,
    typer.Option(
        "--recursive", "-r", help="Search the subfolders of folders too.", rich_help_panel=INPUT
    ),
]

# Output.
CaptionExtensionOption = Annotated[
    str,
    typer.Option(
        "--caption-extension",
        help="Extension of caption files beside the images.",
        rich_help_panel=OUTPUT,
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace files that exist already.", rich_help_panel=OUTPUT),
]
OverwriteCaptionsOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace captions that vlv wrote before.",
        rich_help_panel=OUTPUT,
    ),
]
OverwriteEditedOption = Annotated[
    bool,
    typer.Option(
        "--overwrite-edited",
        help="Replace also captions that a person or another program wrote or edited.",
        rich_help_panel=OUTPUT,
    ),
]
DataEngineOption = Annotated[
    Literal["processes", "ray"],
    typer.Option(
        "--engine",
        help="Processes of this machine, or a Ray cluster whose machines share the folders.",
        rich_help_panel=WORKERS,
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="Of a running Ray cluster.",
        show_default="RAY_ADDRESS, or a cluster on this machine",
        rich_help_panel=WORKERS,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON to standard output.", rich_help_panel=OUTPUT)
]

NumQueriesOption = Annotated[
    int | None,
    typer.Option(
        "--num-queries",
        min=1,
        help="Use only the first so many caption embeddings of an image: faster, and meant for "
        "models that were trained with query_drop.",
        show_default="all",
        rich_help_panel=MODEL,
    ),
]

# Caption generation.
PresetOption = Annotated[
    Literal["authors"] | None,
    typer.Option(
        "--preset",
        help="authors: the settings of the paper's authors. Flags that are given override them.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
NumBeamsOption = Annotated[
    int | None,
    typer.Option(
        "--num-beams",
        min=1,
        help="Beams of beam search.",
        show_default="4; 1 when sampling",
        rich_help_panel=GENERATION,
    ),
]
NumReturnSequencesOption = Annotated[
    int,
    typer.Option(
        "--num-return-sequences",
        min=1,
        help="Captions per image.",
        rich_help_panel=GENERATION,
    ),
]
MaxNewTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=1,
        help="Longest caption, in tokens.",
        show_default="300",
        rich_help_panel=GENERATION,
    ),
]
MinNewTokensOption = Annotated[
    int,
    typer.Option(
        "--min-new-tokens",
        min=0,
        help="Shortest caption, in tokens.",
        rich_help_panel=GENERATION,
    ),
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        "--temperature",
        min=0.0,
        help="Sampling temperature; 0 means beam search.",
        rich_help_panel=GENERATION,
    ),
]
TopPOption = Annotated[
    float,
    typer.Option(
        "--top-p",
        help="Nucleus sampling: sample from the most likely tokens of this total probability.",
        rich_help_panel=GENERATION,
    ),
]
CaptionSeedOption = Annotated[
    int, typer.Option("--seed", help="Seed of sampling.", rich_help_panel=GENERATION)
]
ForcedStartOption = Annotated[
    str,
    typer.Option(
        "--forced-start",
        help="Text that every caption begins with; the model continues it.",
        rich_help_panel=GENERATION,
    ),
]
BannedWordsOption = Annotated[
    str,
    typer.Option(
        "--banned-words",
        help="Words that captions must not contain, separated by commas.",
        rich_help_panel=GENERATION,
    ),
]
DropUnfinishedOption = Annotated[
    bool | None,
    typer.Option(
        "--drop-unfinished/--keep-unfinished",
        help="Drop a last sentence without an end.",
        show_default="only where --max-new-tokens cut the caption off",
        rich_help_panel=GENERATION,
    ),
]
DropRepeatedOption = Annotated[
    bool | None,
    typer.Option(
        "--drop-repeated/--keep-repeated",
        help="Drop sentences that occurred before.",
        show_default="only where --max-new-tokens cut the caption off",
        rich_help_panel=GENERATION,
    ),
]
TriggerOption = Annotated[
    str,
    typer.Option(
        "--trigger",
        help="A word that every caption shall begin with, followed by a comma. A caption that "
        "begins with it stays as it is.",
        rich_help_panel=GENERATION,
    ),
]
PrependOption = Annotated[
    str,
    typer.Option("--prepend", help="Text to put before every caption.", rich_help_panel=GENERATION),
]
AppendOption = Annotated[
    str,
    typer.Option("--append", help="Text to put after every caption.", rich_help_panel=GENERATION),
]

# Checks of captions.
FalseAlarmRateOption = Annotated[
    float,
    typer.Option(
        "--false-alarm-rate",
        min=0.0,
        max=1.0,
        help="Share of true sentences that may be called unsupported. A larger share finds more "
        "errors.",
        rich_help_panel=CHECKS,
    ),
]

# Image generation.
_SCHEDULERS = "ddim, ddpm, dpm++, euler, or the name of a scheduler class of diffusers."
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
        show_default="50",
        rich_help_panel=DIFFUSION,
    ),
]
PresetSchedulerOption = Annotated[
    str | None,
    typer.Option("--scheduler", help=_SCHEDULERS, show_default="ddim", rich_help_panel=DIFFUSION),
]

# Model.
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        envvar="VLV_MODEL",
        help="vlv-mini (bundled with the package), a model folder, or an id on the Hugging Face "
        "Hub.",
        rich_help_panel=MODEL,
    ),
]
ModelFolderOption = Annotated[
    Path,
    typer.Option("--model", help="The model folder to add it to.", rich_help_panel=MODEL),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision", help="Branch, tag or commit of a model on the Hub.", rich_help_panel=MODEL
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1 or mps.",
        show_default="the best one available",
        rich_help_panel=MODEL,
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="float32, bfloat16 or float16.",
        show_default="float32; bfloat16 for a full-size model on a GPU",
        rich_help_panel=MODEL,
    ),
]
QuantizationOption = Annotated[
    Literal["8bit", "4bit", "int8"] | None,
    typer.Option(
        "--quantization",
        help="Quantize the language model: 8bit or 4bit with the extra `quantization`; int8 is "
        "faster on CPUs.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
EngineOption = Annotated[
    Literal["transformers", "vllm", "llama.cpp"],
    typer.Option(
        "--engine",
        help="What runs the language model. vllm and llama.cpp have no beam search, and need the "
        "extra of their name; llama.cpp needs a model folder of `vlv export gguf`.",
        rich_help_panel=MODEL,
    ),
]
EngineUrlOption = Annotated[
    str | None,
    typer.Option(
        "--engine-url",
        metavar="URL",
        help="With --engine vllm: a running vLLM server, such as http://127.0.0.1:8000/v1. Its key "
        "is read from VLV_ENGINE_KEY.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
OffloadOption = Annotated[
    bool,
    typer.Option(
        "--offload",
        help="Keep only the component that is computing in the GPU's memory.",
        rich_help_panel=MODEL,
    ),
]

# Performance and limits.
BatchSizeOption = Annotated[
    str,
    typer.Option(
        "--batch-size",
        help="Images per batch; auto reduces it where memory runs out.",
        rich_help_panel=PERFORMANCE,
    ),
]
ModelBatchSizeOption = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        help="Images per batch; auto reduces it where memory runs out.",
        show_default="8; 32 for a model of small images",
        rich_help_panel=PERFORMANCE,
    ),
]
MaxMegapixelsOption = Annotated[
    float,
    typer.Option(
        "--max-megapixels",
        min=1,
        max=1000,
        help="Refuse larger images. One megapixel takes about 10 MB of memory.",
        rich_help_panel=PERFORMANCE,
    ),
]

# Of commands that ask models behind OpenAI-compatible addresses.
InputPriceOption = Annotated[
    float | None,
    typer.Option(
        "--input-price", min=0, help="USD for a million input tokens.", rich_help_panel=BUDGET
    ),
]
OutputPriceOption = Annotated[
    float | None,
    typer.Option(
        "--output-price", min=0, help="USD for a million output tokens.", rich_help_panel=BUDGET
    ),
]
ConcurrencyOption = Annotated[
    int,
    typer.Option("--concurrency", min=1, help="Requests at a time.", rich_help_panel=PERFORMANCE),
]
AnswerTimeoutOption = Annotated[
    float,
    typer.Option("--timeout", min=0.1, help="Seconds for an answer.", rich_help_panel=PERFORMANCE),
]


def pixels(megapixels: float) -> int:
    """Number of pixels of an image with so many megapixels."""
    return int(megapixels * 1_000_000)
