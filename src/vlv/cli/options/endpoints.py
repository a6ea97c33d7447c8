"""Options of commands that ask models behind OpenAI-compatible addresses, and what it may cost."""

from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.options.headings import BUDGET, ENDPOINT, PERFORMANCE

if TYPE_CHECKING:
    from vlv.endpoints.budget import Prices
    from vlv.endpoints.extra_body import ExtraBody

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
ExtraBodyOption = Annotated[
    str | None,
    typer.Option(
        "--extra-body",
        help="JSON with further fields of every request, such as "
        """'{"chat_template_kwargs": {"enable_thinking": false}}'; null leaves a field out.""",
        rich_help_panel=ENDPOINT,
        show_default=False,
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


def extra_fields(text: str | None) -> "ExtraBody":
    """The fields of `--extra-body`; none without it. Raises ConfigError."""
    from vlv.endpoints.extra_body import parse_extra_body

    return {} if text is None else parse_extra_body(text)


def prices_of(
    input_price: float | None, output_price: float | None, max_cost_usd: float | None
) -> "Prices":
    """The prices that were given.

    Raises:
        ConfigError: there is a limit of money, and a price is missing.
    """
    from vlv.endpoints.budget import Prices
    from vlv.errors import ConfigError

    prices = Prices(input_price, output_price)
    if max_cost_usd is not None and not prices.known:
        raise ConfigError("--max-cost-usd needs --input-price and --output-price")
    return prices
