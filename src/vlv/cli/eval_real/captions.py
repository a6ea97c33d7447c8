"""`vlv eval captions`: captions of a set by one captioner, which later commands read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlv.cli.eval_real.caption_options import CaptioningOptions
from vlv.cli.options.endpoints import (
    DEFAULT_API_KEY_ENV,
    DEFAULT_MAX_SIDE,
    AnswerTimeoutOption,
    ApiKeyEnvOption,
    BaseUrlOption,
    ConcurrencyOption,
    ExtraBodyOption,
    InputPriceOption,
    MaxCostOption,
    MaxSentSideOption,
    MaxTotalTokensOption,
    OutputPriceOption,
    ServedModelOption,
    extra_fields,
    prices_of,
)
from vlv.cli.options.files import JsonOption, SourceArgument
from vlv.cli.options.headings import GENERATION, INPUT, MODEL
from vlv.cli.options.model import RevisionOption
from vlv.text import counted, printable

if TYPE_CHECKING:
    from vlv.evaluation.real.caption_run import CaptionRun
    from vlv.evaluation.real.captions_file import AppendedLines

_ENDPOINT = "endpoint"


def captions(
    source: SourceArgument,
    captioner: Annotated[
        str,
        typer.Option(
            "--captioner",
            help="vlv-mini, a model folder or an id on the Hub: of ours, of Florence-2, or of any "
            "model of transformers for image-text-to-text; or endpoint.",
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The captions file, such as captions.jsonl.", show_default=False
        ),
    ],
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="Caption the first images only.", rich_help_panel=INPUT
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="What is asked of a model that is not ours.",
            show_default="Florence-2: <MORE_DETAILED_CAPTION>; chat models and endpoints: asks "
            "for a detailed caption",
            rich_help_panel=GENERATION,
        ),
    ] = None,
    captioning: CaptioningOptions = CaptioningOptions(),  # noqa: B008
    revision: RevisionOption = None,
    base_url: BaseUrlOption = None,
    model: ServedModelOption = None,
    api_key_env: ApiKeyEnvOption = DEFAULT_API_KEY_ENV,
    extra_body: ExtraBodyOption = None,
    max_side: MaxSentSideOption = DEFAULT_MAX_SIDE,
    concurrency: ConcurrencyOption = 8,
    timeout: AnswerTimeoutOption = 120,
    input_price: InputPriceOption = None,
    output_price: OutputPriceOption = None,
    max_cost_usd: MaxCostOption = None,
    max_total_tokens: MaxTotalTokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Caption a set once, for all commands that measure captions.

    Writes a line of JSON for each image, with its time, tokens and money, and beside the file who
    captioned and how. The same command continues a run that was interrupted: nothing is computed
    or paid for twice. Images without a caption are named, and the exit code is then 1.
    """
    from vlv.cli.common import Failures, progress
    from vlv.errors import ConfigError
    from vlv.evaluation.real.caption_run import (
        check_sidecar,
        complete_sidecar,
        set_items,
        totals_of,
    )
    from vlv.evaluation.real.captions_file import appended_lines

    failures = Failures(as_json)

    def items() -> Iterator[Any]:
        return set_items(source, limit)

    def here(file: "AppendedLines") -> "CaptionRun":
        from vlv.evaluation.real.caption_run import caption_here
        from vlv.evaluation.real.captioners import open_captioner

        opened = open_captioner(
            captioner,
            captioning.generation(prompt),
            revision=revision,
            device=captioning.device,
            dtype=captioning.dtype,
        )
        check_sidecar(out, opened.about, source)
        return caption_here(opened, items(), file, batch_size=captioning.batch_size, watch=progress)

    def asked(file: "AppendedLines") -> "CaptionRun":
        from vlv.data.teacher.request import INSTRUCTION, Request
        from vlv.endpoints.address import key_in
        from vlv.endpoints.budget import Limits
        from vlv.evaluation.real.endpoint_captions import (
            Service,
            about_endpoint,
            caption_by_endpoint,
        )

        if not base_url or not model:
            raise ConfigError("--captioner endpoint needs --base-url and --model")
        prices = prices_of(input_price, output_price, max_cost_usd)
        request = Request(
            model,
            prompt or INSTRUCTION,
            captioning.max_new_tokens,
            max_side,
            captioning.temperature,
            captioning.seed,
            extra_fields(extra_body),
        )
        check_sidecar(out, about_endpoint(request), source)
        service = Service(
            base_url,
            key_in(api_key_env),
            prices,
            Limits(max_cost_usd, max_total_tokens),
            concurrency,
            timeout,
        )
        return caption_by_endpoint(service, request, items(), file, watch=progress)[0]

    if captioner != _ENDPOINT and (base_url or model or extra_body):
        raise ConfigError("--base-url, --model and --extra-body are for --captioner endpoint")
    next(items(), None)  # what is no set is reported before a model is opened
    with appended_lines(out) as file:
        run = asked(file) if captioner == _ENDPOINT else here(file)
        totals = totals_of(file.records)
        complete_sidecar(out, run, totals)
    failures.add(*run.refused)
    if as_json:
        summary = {"written": run.written, "known": run.known, "failed": len(run.refused)}
        typer.echo(json.dumps({"out": str(out), **summary, "stopped": run.stopped, **totals}))
    else:
        before = f", {run.known:,} written before" if run.known else ""
        money = f", {totals['usd']:,.4f} USD in all" if totals["usd"] is not None else ""
        typer.echo(
            f"{printable(out)}: {counted(run.written, 'caption')}{before}, "
            f"{len(run.refused)} failed{money}"
        )
    if run.stopped:
        typer.echo(f"vlv: images were left out: {run.stopped}", err=True)
        raise typer.Exit(128 + run.signal if run.signal else 1)
    if not totals["captions"] and not run.refused:
        from vlv.errors import DatasetError

        raise DatasetError(f"{printable(source)} holds no image")
    failures.exit()
