"""Options for batches, workers, and what may be used: pixels, requests, money."""

from typing import Annotated, Literal

import typer

from vlv.cli.options.headings import BUDGET, PERFORMANCE, WORKERS

DEFAULT_MAX_MEGAPIXELS = 100.0
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
