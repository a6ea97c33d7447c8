"""`vlv data caption`: captions of a dataset by a teacher."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vlv.cli.options.endpoints import (
    DEFAULT_API_KEY_ENV,
    DEFAULT_MAX_SIDE,
    AnswerTimeoutOption,
    ApiKeyEnvOption,
    ConcurrencyOption,
    InputPriceOption,
    MaxCostOption,
    MaxSentSideOption,
    MaxTotalTokensOption,
    OutputPriceOption,
    RequiredBaseUrlOption,
    RequiredServedModelOption,
    prices_of,
)
from vlv.cli.options.files import JsonOption, SourceArgument, TargetArgument
from vlv.cli.options.headings import ENDPOINT, OUTPUT
from vlv.text import counted, printable

if TYPE_CHECKING:
    from vlv.data.teacher.captioning import Given
    from vlv.data.teacher.estimate import Estimate
    from vlv.endpoints.budget import Budget


def caption(
    source: SourceArgument,
    target: TargetArgument,
    base_url: RequiredBaseUrlOption,
    model: RequiredServedModelOption,
    api_key_env: ApiKeyEnvOption = DEFAULT_API_KEY_ENV,
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
        Literal["jsonl", "folder", "webdataset", "parquet"],
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
    from vlv.cli.common import Failures, progress
    from vlv.data.teacher.captioning import TeacherRun
    from vlv.data.teacher.estimate import estimate
    from vlv.data.teacher.request import INSTRUCTION, Request
    from vlv.data.teacher.sets import (
        check_target,
        dataset_items,
        noted,
        notes,
        notes_of,
        write_captioned,
        write_lines,
    )
    from vlv.endpoints.asking import NOT_ASKED, stopped_by_signals
    from vlv.endpoints.budget import Budget, Limits
    from vlv.endpoints.endpoint import Endpoint
    from vlv.endpoints.ledger import FOLDER, Ledger
    from vlv.inference.records import Refused

    prices = prices_of(input_price, output_price, max_cost_usd)
    asked = INSTRUCTION if instruction is None else _text_of(instruction)
    request = Request(model, asked, max_tokens, max_side, temperature)
    check_target(source, target, output_format)
    failures = Failures(as_json)
    names = target / FOLDER / "images.jsonl"

    def items() -> Iterator[Any]:
        return dataset_items(source, leave_out=target)

    async def ask(ledger: Ledger, budget: Budget, total: int) -> TeacherRun:
        key = os.environ.get(api_key_env) or None
        async with Endpoint(base_url, key, timeout=timeout, connections=concurrency) as endpoint:
            run = TeacherRun(request, endpoint, ledger, budget, concurrency)
            with stopped_by_signals(run), _bar(total, budget, prices.known) as seen:
                async for given in run.captions(noted(items(), names)):
                    seen(given)
                    if given.reason not in (None, NOT_ASKED):
                        failures.add(Refused(given.name, str(given.reason), given.message))
        return run

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
        run = asyncio.run(ask(ledger, budget, ahead.images))
        if output_format == "jsonl":
            # A run that was stopped has not read all images.
            found = notes_of(items()) if run.stopped else notes(names)
            shown = progress(found, total=ahead.images, description="writing")
            written = write_lines(shown, ledger, request, target)
        else:
            again = progress(items(), total=ahead.images, description="writing")
            written = write_captioned(
                again, ledger, request, target, output_format, shard_size=shard_size
            )
        names.unlink(missing_ok=True)
        not_asked = written.not_asked if run.stopped else 0
        summary = {
            "captions": written.captions,
            "requests": budget.spent.requests,
            "prompt_tokens": budget.spent.prompt_tokens,
            "completion_tokens": budget.spent.completion_tokens,
            "usd": round(budget.usd, 6) if prices.known else None,
            "problems": ledger.problems(),
            "stopped": run.stopped,
            "not_asked": not_asked,
        }
    if as_json:
        typer.echo(json.dumps({"out": str(target), **summary}))
    else:
        spent = f", {budget.usd:,.2f} USD" if prices.known else ""
        typer.echo(
            f"{printable(target)}: {counted(written.captions, 'caption')}, "
            f"{counted(budget.spent.requests, 'answer')}{spent}"
        )
    if run.stopped:
        were = "image was" if not_asked == 1 else "images were"
        typer.echo(f"vlv: {not_asked:,} {were} not asked for: {run.stopped}", err=True)
        raise typer.Exit(128 + run.signal if run.signal else 1)
    failures.exit()


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
