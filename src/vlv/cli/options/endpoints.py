"""Options of commands that ask models behind OpenAI-compatible addresses, and what it may cost."""

from typing import Annotated

import typer

from vlv.cli.options.headings import BUDGET, ENDPOINT, PERFORMANCE

_BASE_URL = typer.Option(
    "--base-url",
    help="Address of an OpenAI-compatible server, such as http://localhost:8000/v1.",
    rich_help_panel=ENDPOINT,
    show_default=False,
)
_MODEL = typer.Option(
    "--model", help="The model's name at the server.", rich_help_panel=ENDPOINT, show_default=False
)
RequiredBaseUrlOption = Annotated[str, _BASE_URL]
BaseUrlOption = Annotated[str | None, _BASE_URL]
RequiredServedModelOption = Annotated[str, _MODEL]
ServedModelOption = Annotated[str | None, _MODEL]
DEFAULT_API_KEY_ENV = "OPENAI_API_KEY"
ApiKeyEnvOption = Annotated[
    str,
    typer.Option(
        "--api-key-env",
        help="The environment variable that holds the key, if the server needs one.",
        rich_help_panel=ENDPOINT,
    ),
]
DEFAULT_MAX_SIDE = 1024
MaxSentSideOption = Annotated[
    int,
    typer.Option(
        "--max-side",
        min=16,
        help="Larger images are reduced to this side, in pixels, before they are sent.",
        rich_help_panel=ENDPOINT,
    ),
]
MaxCostOption = Annotated[
    float | None,
    typer.Option(
        "--max-cost-usd",
        min=0,
        help="Limit of the cost, with that of earlier runs into the same folder. Needs both "
        "prices.",
        rich_help_panel=BUDGET,
    ),
]
MaxTotalTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-total-tokens",
        min=1,
        help="Limit of the tokens, with those of earlier runs into the same folder.",
        rich_help_panel=BUDGET,
    ),
]
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
