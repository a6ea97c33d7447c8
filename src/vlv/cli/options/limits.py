"""Options for batches, workers, and the pixels that images may have."""

from typing import Annotated, Literal

import typer

from vlv.cli.options.headings import PERFORMANCE, WORKERS

DEFAULT_MAX_MEGAPIXELS = 100.0
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Processes that read, decode or draw images.",
        show_default="one per core",
        rich_help_panel=WORKERS,
    ),
]
"""Where a model does the work, there is one worker per GPU instead."""
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
        help="Address of a running Ray cluster.",
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


def pixels(megapixels: float) -> int:
    """Number of pixels of an image with so many megapixels."""
    return int(megapixels * 1_000_000)
