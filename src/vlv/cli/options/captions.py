"""Options for how captions are written and checked."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.options.headings import CHECKS, GENERATION, MODEL

DEFAULT_FALSE_ALARM_RATE = 0.05
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
VerifyOption = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Mark sentences that the image does not support.",
        rich_help_panel=CHECKS,
    ),
]
DropUnsupportedOption = Annotated[
    bool,
    typer.Option(
        "--drop-unsupported",
        help="Drop sentences that the image does not support.",
        rich_help_panel=CHECKS,
    ),
]
BestOfOption = Annotated[
    int,
    typer.Option(
        "--best-of",
        min=1,
        help="Sample so many captions per image and keep the one with the lowest denoising error.",
        rich_help_panel=CHECKS,
    ),
]
SkipOodOption = Annotated[
    bool,
    typer.Option(
        "--skip-ood",
        help="Do not caption out-of-distribution images.",
        rich_help_panel=CHECKS,
    ),
]
OodListOption = Annotated[
    Path | None,
    typer.Option(
        "--ood-list",
        help="File to add the names of out-of-distribution images to; --filelist reads it.",
        show_default=False,
        rich_help_panel=CHECKS,
    ),
]
