"""Captions by a model behind an OpenAI-compatible server, for evaluation: as the model writes them.

The requests, the ledger and the budget are those of `vlv data caption`. Unlike a teacher, whose
answers are asked for again until they are good captions, a captioner that is evaluated is asked
once: a loop, a cut answer or another language is its caption.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlv.data.teacher.captioning import Given, TeacherRun
from vlv.data.teacher.request import Request
from vlv.endpoints.asking import NOT_ASKED, ONLY_THOUGHTS, stopped_by_signals
from vlv.endpoints.budget import Budget, Limits, Prices
from vlv.endpoints.endpoint import Answer, Endpoint
from vlv.endpoints.ledger import Ledger, Spent
from vlv.evaluation.real.caption_run import CaptionRun, Watch, missing_items
from vlv.evaluation.real.captions_file import AppendedLines, CaptionLine
from vlv.inference.records import Refused


@dataclass(frozen=True)
class Service:
    """Where the model is, and what asking it may take."""

    base_url: str
    key: str | None
    prices: Prices
    limits: Limits
    concurrency: int = 8
    timeout: float = 120


def ledger_folder(captions: Path) -> Path:
    """Where the answers of a captions file are kept: every one that was paid for."""
    return captions.with_name(captions.name + ".answers")


def about_endpoint(request: Request) -> dict[str, Any]:
    """Who captions, for the sidecar."""
    return {
        "captioner": request.model,
        "kind": "endpoint",
        "prompt": request.instruction,
        "max_new_tokens": request.max_tokens,
        "max_side": request.max_side,
        "temperature": request.temperature,
        "seed": request.seed,
        **({"extra_body": request.extra} if request.extra else {}),
    }


def as_written(answer: Answer) -> str:
    """The answer on one line."""
    return " ".join(answer.text.split())


def no_caption(answer: Answer, instruction: str) -> str | None:
    """Why there is no caption: the server withholds it, or it has thoughts or no words."""
    if answer.finish == "content_filter":
        return "refusal"
    if answer.only_thoughts:
        return ONLY_THOUGHTS
    return None if as_written(answer) else "empty"


def caption_by_endpoint(
    service: Service,
    request: Request,
    items: Iterable[Any],
    file: AppendedLines,
    *,
    watch: Watch[Any] = iter,
) -> tuple[CaptionRun, Spent]:
    """Ask for the images that the file lacks; answers in the ledger are not asked for again.

    Returns what became of the images, and all answers that were paid, of earlier runs too.

    Raises:
        ConfigError: the server would answer no request.
        DatasetError: it has not answered for a long time.
    """
    with Ledger(ledger_folder(file.path), request, service.base_url) as ledger:
        budget = Budget(ledger.spent(), service.prices, service.limits, request.instruction)
        asking = _Asking(service, request, ledger, budget, file)
        run = asyncio.run(asking.run(items, watch))
        return run, ledger.spent()


@dataclass
class _Asking:
    service: Service
    request: Request
    ledger: Ledger
    budget: Budget
    file: AppendedLines

    async def run(self, items: Iterable[Any], watch: Watch[Any]) -> CaptionRun:
        run = CaptionRun()
        hashes: dict[str, str] = {}
        service = self.service
        async with Endpoint(
            service.base_url,
            service.key,
            timeout=service.timeout,
            connections=service.concurrency,
        ) as endpoint:
            teacher = TeacherRun(
                self.request,
                endpoint,
                self.ledger,
                self.budget,
                service.concurrency,
                attempts=1,
                problem_with=no_caption,
                caption_in=as_written,
            )
            with stopped_by_signals(teacher):
                async for given in teacher.captions(self._missing(watch(items), hashes, run)):
                    self._enter(given, hashes.pop(given.name, None), run)
        run.stopped, run.signal = teacher.stopped, teacher.signal
        return run

    def _missing(
        self, items: Iterable[Any], hashes: dict[str, str], run: CaptionRun
    ) -> Iterator[Any]:
        for name, image, sample in missing_items(items, self.file, run):
            if image is not None:
                hashes[name] = image
            yield name, sample

    def _enter(self, given: Given, image: str | None, run: CaptionRun) -> None:
        if given.reason == NOT_ASKED:
            return
        if given.caption is None or image is None:
            run.refused.append(Refused(given.name, str(given.reason), given.message))
            return
        spent = self.ledger.spent(image)
        prices = self.service.prices
        line = CaptionLine(
            given.name,
            given.caption,
            self.request.model,
            round(spent.seconds, 4),
            spent.prompt_tokens or None,
            spent.completion_tokens or None,
            prices.of(spent.prompt_tokens, spent.completion_tokens) if prices.known else None,
            image_sha256=image,
        )
        self.file.add([line.record()])
        run.written += 1
