"""`vlv data caption`: captions of a dataset by a teacher."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vlv.cli.options.endpoints import (
    DEFAULT_API_KEY_ENV,
    DEFAULT_MAX_SIDE,
    AnswerTimeoutOption,
    ApiKeyEnvOption,
    ConcurrencyOption,
    ExtraBodyOption,
    InputPriceOption,
    MaxCostOption,
    MaxSentSideOption,
    MaxTotalTokensOption,
    OutputPriceOption,
    RequiredBaseUrlOption,
    RequiredServedModelOption,
    extra_fields,
    prices_of,
)
from vlv.cli.options.files import JsonOption, SourceArgument, TargetArgument
from vlv.cli.options.headings import ENDPOINT, OUTPUT
from vlv.text import counted, printable

if TYPE_CHECKING:
    from vlv.cli.common import Failures
    from vlv.data.teacher.captioning import Given, Item, TeacherRun
    from vlv.data.teacher.estimate import Estimate
    from vlv.data.teacher.request import Request
    from vlv.data.teacher.sets import Written
    from vlv.endpoints.budget import Budget
    from vlv.endpoints.ledger import Ledger

Layout = Literal["jsonl", "folder", "webdataset", "parquet"]


def caption(
    source: SourceArgument,
    target: TargetArgument,
    base_url: RequiredBaseUrlOption,
    model: RequiredServedModelOption,
    api_key_env: ApiKeyEnvOption = DEFAULT_API_KEY_ENV,
    extra_body: ExtraBodyOption = None,
    instruction: Annotated[
        Path | None,
        typer.Option(
            "--instruction",
            help="A text file with the instruction to the teacher.",
            rich_help_panel=ENDPOINT,
            show_default="asks for a detailed caption",
        ),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens",
            min=1,
            help="Tokens of an answer; a second attempt has twice as many.",
            rich_help_panel=ENDPOINT,
        ),
    ] = 512,
    max_side: MaxSentSideOption = DEFAULT_MAX_SIDE,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            min=0,
            help="Temperature of the teacher's sampling; later attempts have at least 0.7.",
            rich_help_panel=ENDPOINT,
            show_default="the server's own",
        ),
    ] = None,
    max_cost_usd: MaxCostOption = None,
    max_total_tokens: MaxTotalTokensOption = None,
    input_price: InputPriceOption = None,
    output_price: OutputPriceOption = None,
    concurrency: ConcurrencyOption = 8,
    timeout: AnswerTimeoutOption = 120,
    output_format: Annotated[
        Layout,
        typer.Option(
            "--output-format",
            help="jsonl: metadata.jsonl, which names the images; folder, webdataset, parquet: "
            "images with captions.",
            rich_help_panel=OUTPUT,
        ),
    ] = "jsonl",
    shard_size: Annotated[
        int,
        typer.Option(
            "--shard-size", min=1, help="Images per .tar or parquet file.", rich_help_panel=OUTPUT
        ),
    ] = 10_000,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Ask again for images that were given up.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only state what a run would take.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Caption a dataset by a vision-language model behind an OpenAI-compatible server.

    The same command continues a run that was interrupted, and pays for no image twice: every answer
    is on disk before the next step. Answers that are refusals, cut off, repetitive, in another
    language, or the instruction itself are asked for again, three times in all. Images without a
    caption are named, and the exit code is then 1.
    """
    from vlv.cli.common import Failures
    from vlv.data.teacher.estimate import estimate
    from vlv.data.teacher.request import INSTRUCTION, Request
    from vlv.data.teacher.sets import check_target
    from vlv.endpoints.address import key_in
    from vlv.endpoints.budget import Budget, Limits
    from vlv.endpoints.ledger import Ledger

    prices = prices_of(input_price, output_price, max_cost_usd)
    asked = INSTRUCTION if instruction is None else _text_of(instruction)
    extra = extra_fields(extra_body)
    request = Request(model, asked, max_tokens, max_side, temperature, extra=extra)
    check_target(source, target, output_format)
    failures = Failures(as_json)
    job = _Job(source, target, request, prices.known)
    with Ledger(target, request, base_url) as ledger:
        if retry_failed:
            ledger.forget_refusals()
        budget = Budget(ledger.spent(), prices, Limits(max_cost_usd, max_total_tokens), asked)
        ahead = estimate(source, ledger, max_side, leave_out=target)
        tokens, usd = budget.expected(ahead.left, ahead.tokens)
        _state(ahead, tokens, usd if prices.known else None, budget.spent.requests)
        if dry_run:
            if as_json:
                expected = {"tokens": tokens, "usd": usd if prices.known else None}
                typer.echo(json.dumps({"out": str(target), **asdict(ahead), **expected}))
            return
        endpoint = _Endpoint(base_url, key_in(api_key_env), timeout, concurrency)
        run = asyncio.run(job.ask(endpoint, ledger, budget, ahead.images, failures))
        written = job.write(ledger, ahead.images, output_format, shard_size, whole=not run.stopped)
        problems = ledger.problems()
    not_asked = written.not_asked if run.stopped else 0
    spent = {
        "requests": budget.spent.requests,
        "prompt_tokens": budget.spent.prompt_tokens,
        "completion_tokens": budget.spent.completion_tokens,
        "usd": round(budget.usd, 6) if prices.known else None,
    }
    if as_json:
        ended = {"problems": problems, "stopped": run.stopped, "not_asked": not_asked}
        summary = {"captions": written.captions, **spent, **ended}
        typer.echo(json.dumps({"out": str(target), **summary}))
    else:
        money = f", {budget.usd:,.2f} USD" if prices.known else ""
        typer.echo(
            f"{printable(target)}: {counted(written.captions, 'caption')}, "
            f"{counted(budget.spent.requests, 'answer')}{money}"
        )
    if run.stopped:
        were = "image was" if not_asked == 1 else "images were"
        typer.echo(f"vlv: {not_asked:,} {were} not asked for: {run.stopped}", err=True)
        raise typer.Exit(128 + run.signal if run.signal else 1)
    failures.exit()


@dataclass(frozen=True)
class _Endpoint:
    """Where a teacher is asked."""

    base_url: str
    key: str | None
    timeout: float
    concurrency: int


@dataclass(frozen=True)
class _Job:
    """A dataset, its folder of captions, and what is asked. money: whether prices are known."""

    source: Path
    target: Path
    request: "Request"
    money: bool

    @property
    def _names(self) -> Path:
        """What is noted of each image that is read."""
        from vlv.endpoints.ledger import FOLDER

        return self.target / FOLDER / "images.jsonl"

    def _items(self) -> "Iterator[Item]":
        from vlv.data.teacher.sets import dataset_items

        return dataset_items(self.source, leave_out=self.target)

    async def ask(
        self, at: _Endpoint, ledger: "Ledger", budget: "Budget", total: int, failures: "Failures"
    ) -> "TeacherRun":
        """Ask for what the ledger lacks; the run says how it ended."""
        from vlv.data.teacher.captioning import TeacherRun
        from vlv.data.teacher.sets import noted
        from vlv.endpoints.asking import NOT_ASKED, stopped_by_signals
        from vlv.endpoints.endpoint import Endpoint
        from vlv.inference.records import Refused

        client = Endpoint(at.base_url, at.key, timeout=at.timeout, connections=at.concurrency)
        async with client as endpoint:
            run = TeacherRun(self.request, endpoint, ledger, budget, at.concurrency)
            with stopped_by_signals(run), _bar(total, budget, self.money) as seen:
                async for given in run.captions(noted(self._items(), self._names)):
                    seen(given)
                    if given.reason not in (None, NOT_ASKED):
                        failures.add(Refused(given.name, str(given.reason), given.message))
        return run

    def write(
        self, ledger: "Ledger", total: int, layout: Layout, shard_size: int, *, whole: bool
    ) -> "Written":
        """Write the captions that the ledger has. whole: whether all images were read before."""
        from vlv.cli.common import progress
        from vlv.data.teacher.sets import notes, notes_of, write_captioned, write_lines

        if layout == "jsonl":
            found = notes(self._names) if whole else notes_of(self._items())
            shown = progress(found, total=total, description="writing")
            written = write_lines(shown, ledger, self.request, self.target)
        else:
            again = progress(self._items(), total=total, description="writing")
            written = write_captioned(
                again, ledger, self.request, self.target, layout, shard_size=shard_size
            )
        self._names.unlink(missing_ok=True)
        return written


def _state(ahead: "Estimate", tokens: int, usd: float | None, paid: int) -> None:
    """What a run will take, on standard error."""
    about = "" if ahead.exact else "about "
    money = "" if usd is None else f", {usd:,.2f} USD"
    typer.echo(
        f"vlv: {about}{ahead.left:,} of {counted(ahead.images, 'image')} to caption, about "
        f"{counted(tokens, 'token')}{money}, an estimate from "
        f"{counted(ahead.sampled, 'image')}; {counted(paid, 'answer')} paid before",
        err=True,
    )


def _text_of(path: Path) -> str:
    from vlv.errors import ConfigError
    from vlv.text import decode_text

    try:
        text = decode_text(path.read_bytes()).strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--instruction {printable(path)} cannot be read ({error})") from error
    if not text:
        raise ConfigError(f"--instruction {printable(path)} is empty")
    return text


@contextmanager
def _bar(total: int, budget: "Budget", money: bool) -> Iterator[Any]:
    from vlv.cli.common import progress_bar

    with progress_bar(total=total) as bar:

        def seen(given: "Given") -> None:
            bar.update()
            if money:
                bar.set_postfix_str(f"{budget.usd:,.2f} USD", refresh=False)

        yield seen
