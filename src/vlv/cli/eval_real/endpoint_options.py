"""Options of commands that ask models behind OpenAI-compatible addresses, and one run of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.eval_real.sets import check_names
from vlv.cli.options.endpoints import (
    DEFAULT_API_KEY_ENV,
    AnswerTimeoutOption,
    BaseUrlOption,
    ConcurrencyOption,
    InputPriceOption,
    MaxCostOption,
    MaxTotalTokensOption,
    OutputPriceOption,
    ServedModelOption,
    prices_of,
)
from vlv.cli.options.headings import BUDGET, ENDPOINT
from vlv.text import counted

if TYPE_CHECKING:
    from vlv.endpoints.asking import Outcome
    from vlv.evaluation.real.judging import Asked, Judge, Plan, Questions, Service


@dataclass(frozen=True)
class JudgeOptions:
    """Who is asked, and what it may cost."""

    judge: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            help="A model behind a server, as NAME=URL#MODEL. May be repeated.",
            rich_help_panel=ENDPOINT,
            show_default=False,
        ),
    ] = None
    api_key_env: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key-env",
            help="The environment variable that holds the servers' key, or NAME=VARIABLE for the "
            "key of one judge. May be repeated.",
            rich_help_panel=ENDPOINT,
            show_default=DEFAULT_API_KEY_ENV,
        ),
    ] = None
    extra_body: Annotated[
        list[str] | None,
        typer.Option(
            "--extra-body",
            help="JSON with further fields of every request, such as "
            """'{"chat_template_kwargs": {"enable_thinking": false}}', or NAME=JSON for one """
            "judge; null leaves a field out. May be repeated.",
            rich_help_panel=ENDPOINT,
            show_default=False,
        ),
    ] = None
    input_price: InputPriceOption = None
    output_price: OutputPriceOption = None
    max_cost_usd: MaxCostOption = None
    max_total_tokens: MaxTotalTokensOption = None
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Ask again what was given up.", rich_help_panel=BUDGET),
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only state what a run would take.", rich_help_panel=BUDGET),
    ] = False
    concurrency: ConcurrencyOption = 8
    timeout: AnswerTimeoutOption = 120

    def judges(self) -> "list[Judge]":
        """The models to ask; none where none is named.

        Raises:
            ConfigError: one is named by halves, or two have one name.
        """
        from vlv.evaluation.real.judging import with_extra_bodies

        return with_extra_bodies(_different(self._named()), self.extra_body or [])

    def _named(self) -> "list[Judge]":
        from vlv.evaluation.real.judging import judge_from

        return [judge_from(one) for one in self.judge or []]

    def service(self) -> "Service":
        """What asking may take.

        Raises:
            ConfigError: a limit of money without prices, or a key of a judge that there is not.
        """
        from vlv.endpoints.budget import Limits
        from vlv.evaluation.real.judging import Service, keys_from

        prices = prices_of(self.input_price, self.output_price, self.max_cost_usd)
        limits = Limits(self.max_cost_usd, self.max_total_tokens)
        keys = keys_from(self.api_key_env or [], self.judges(), DEFAULT_API_KEY_ENV)
        return Service(keys, prices, limits, self.concurrency, self.timeout)

    def ask(
        self,
        judges: "Iterable[Judge]",
        questions: "Questions",
        folder: Path,
        purpose: str,
        *,
        images: int,
        usual_tokens: int,
    ) -> "Asked":
        """Ask what the folder's ledger lacks, with a progress bar; all answers come back."""
        from vlv.cli.common import progress_bar
        from vlv.evaluation.real.judging import ask_judges

        with progress_bar(unit="question") as bar:

            def planned(plan: "Plan") -> None:
                bar.total = plan.total
                typer.echo(f"vlv: {plan_line(plan)}", err=True)

            def seen(outcome: "Outcome") -> None:
                bar.update()

            return ask_judges(
                judges,
                questions,
                folder,
                self.service(),
                purpose,
                images=images,
                usual_tokens=usual_tokens,
                retry_failed=self.retry_failed,
                dry_run=self.dry_run,
                planned=planned,
                seen=seen,
            )


@dataclass(frozen=True)
class EndpointOptions(JudgeOptions):
    """The same, where a single model may be named by two options of its own."""

    base_url: BaseUrlOption = None
    model: ServedModelOption = None

    def _named(self) -> "list[Judge]":
        from vlv.errors import ConfigError
        from vlv.evaluation.real.judging import Judge

        if (self.base_url is None) != (self.model is None):
            raise ConfigError("--base-url and --model belong together; name both")
        found = JudgeOptions._named(self)
        if self.base_url is not None and self.model is not None:
            found.append(Judge(self.model, self.base_url, self.model))
        return found


def _different(judges: "list[Judge]") -> "list[Judge]":
    check_names("judges", [one.name for one in judges], "--judge NAME=URL#MODEL")
    return judges


def plan_line(plan: "Plan") -> str:
    """What a run would take, in one line."""
    money = "" if plan.usd is None else f", {plan.usd:,.2f} USD"
    return (
        f"{plan.left:,} of {plan.total:,} questions to ask, about {plan.tokens:,} tokens{money}; "
        f"{counted(plan.paid_before, 'answer')} paid before"
    )
