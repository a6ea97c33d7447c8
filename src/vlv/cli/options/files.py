"""Options for what a command reads and writes."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.options.headings import INPUT, OUTPUT

InputsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Images, folders of images, .tar shards, .parquet files, or - for an image on "
        "standard input.",
        show_default=False,
    ),
]
SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SRC",
        help="A folder of images, or .tar shards, or parquet files.",
        show_default=False,
    ),
]
TargetArgument = Annotated[
    Path, typer.Argument(metavar="DST", help="The folder for the results.", show_default=False)
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
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON to standard output.", rich_help_panel=OUTPUT)
]
