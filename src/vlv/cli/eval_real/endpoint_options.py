"""Options of commands that ask models behind OpenAI-compatible addresses, and one run of them."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
)
from vlv.cli.options.headings import BUDGET, ENDPOINT
from vlv.text import counted, printable

if TYPE_CHECKING:
    from vlv.cli.common import Failures
    from vlv.endpoints.asking import Outcome
    from vlv.evaluation.real.judging import Asked, Judge, Plan, Questions, Service
    from vlv.evaluation.results import Result

RESULT = "result.json"
# Of the widest table.
_WIDTH = 180


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
        from vlv.evaluation.real.judging import judge_from

        return different([judge_from(one) for one in self.judge or []])

    def service(self) -> "Service":
        """What asking may take.

        Raises:
            ConfigError: a limit of money without prices, or a key of a judge that there is not.
        """
        from vlv.endpoints.budget import Limits, Prices
        from vlv.errors import ConfigError
        from vlv.evaluation.real.judging import Service, keys_from

        prices = Prices(self.input_price, self.output_price)
        if self.max_cost_usd is not None and not prices.known:
            raise ConfigError("--max-cost-usd needs --input-price and --output-price")
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
        from tqdm import tqdm

        from vlv.evaluation.real.judging import ask_judges

        with tqdm(unit=" question", disable=None, delay=2, dynamic_ncols=True) as bar:

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

    def judges(self) -> "list[Judge]":
        """The models to ask; none where none is named.

        Raises:
            ConfigError: one is named by halves, or two have one name.
        """
        from vlv.errors import ConfigError
        from vlv.evaluation.real.judging import Judge

        if (self.base_url is None) != (self.model is None):
            raise ConfigError("--base-url and --model belong together; name both")
        found = JudgeOptions.judges(self)
        if self.base_url is not None and self.model is not None:
            found.append(Judge(self.model, self.base_url, self.model))
        return different(found)


def different(judges: "list[Judge]") -> "list[Judge]":
    """The same models; raises ConfigError where two have one name."""
    from vlv.errors import ConfigError

    names = [one.name for one in judges]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"two judges are called {printable(min(twice))}; name them, as in --judge "
            "NAME=URL#MODEL"
        )
    return judges


def plan_line(plan: "Plan") -> str:
    """What a run would take, in one line."""
    money = "" if plan.usd is None else f", {plan.usd:,.2f} USD"
    return (
        f"{plan.left:,} of {plan.total:,} questions to ask, about {plan.tokens:,} tokens{money}; "
        f"{counted(plan.paid_before, 'answer')} paid before"
    )


def write_results(
    folder: Path, result: "Result", lines: Iterable[Mapping[str, Any]], lines_file: str
) -> None:
    """Write the result and, one JSON object a line, what it was computed from."""
    from vlv.evaluation.results import to_json
    from vlv.files import atomic_file

    folder.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(folder / lines_file) as unfinished,
        open(unfinished, "w", encoding="utf-8", errors="surrogateescape") as out,
    ):
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    text = json.dumps(to_json(result), indent=2, ensure_ascii=False)
    with atomic_file(folder / RESULT) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")


def write_page(folder: Path, page: str, name: str) -> None:
    """Write a page beside the result."""
    from vlv.files import atomic_file

    with atomic_file(folder / name) as unfinished:
        unfinished.write_bytes(page.encode("utf-8", "surrogateescape"))


def print_results(folder: Path, result: "Result", as_json: bool, files: Iterable[str]) -> None:
    """Print the tables, or the result as JSON on one line."""
    from rich.console import Console

    from vlv.evaluation.report.tables import print_result
    from vlv.evaluation.results import to_json

    if as_json:
        typer.echo(json.dumps(to_json(result), ensure_ascii=False))
        return
    console = Console()
    # A file or a pipe has no width to fit into.
    print_result(result, console if console.is_terminal else Console(width=_WIDTH))
    typer.echo(", ".join(printable(folder / file) for file in files))


def exit_after(
    asked: "Asked", add_more: Callable[["Failures"], None] = lambda failures: None
) -> None:
    """Name what has no answer, and exit: 1 where something failed, 128 + N after a signal."""
    from vlv.cli.common import Failures

    failures = Failures(as_json=False)
    failures.add(*asked.refused)
    add_more(failures)
    if asked.stopped:
        typer.echo(f"vlv: {asked.not_asked:,} questions were not asked: {asked.stopped}", err=True)
        raise typer.Exit(128 + asked.signal if asked.signal else 1)
    failures.exit()
