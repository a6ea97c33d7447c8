"""Questions to an endpoint: many requests at a time, none of them twice.

Everything that is known of a question is in the ledger; a run asks only for what it lacks.
Questions come from a stream, and a few more than are asked at a time are in memory. Knows nothing
of what the questions are about.
"""

import asyncio
import logging
import math
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from vlv.endpoints.budget import Budget, prompt_tokens_of
from vlv.endpoints.endpoint import Answer, Endpoint, Rejected, TryAgain
from vlv.endpoints.extra_body import most_tokens
from vlv.endpoints.ledger import Ledger
from vlv.errors import ConfigError, DatasetError, ImageError
from vlv.text import printable

logger = logging.getLogger(__name__)

# Answers that are paid for one question before it is given up.
ATTEMPTS = 3
# Seconds: the first pause after a busy server, which doubles up to the last one.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 60.0
# Seconds that a server may ask to wait, and between two lines that say that it does not answer.
_LONGEST_WAIT, _BETWEEN_LINES = 3600.0, 60.0
# Requests in a row that a server does not answer, over all questions, before a run gives up; of
# requests that are sent together, so many times their number, since one busy moment refuses them
# all.
_PATIENCE, _ROUNDS = 50, 6
# Requests that it rejects before any is answered: then the reason is not the question.
_REJECTED_AT_FIRST = 5
# Answers without words before any has some: then it is the model that thinks for too long.
_THOUGHTS_AT_FIRST = 5

ONLY_THOUGHTS: Final = "only-thoughts"
"""The problem of an answer whose model thought until the limit of tokens."""

NOT_ASKED = "not-asked"
"""The reason of a question that the end of a run left for the next one."""

Body = Callable[[int], dict[str, Any]]
"""The JSON of the n-th request (from 1) for a question."""


class Question(Protocol):
    """What is asked, and how an answer is read."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def key(self) -> str:
        """By which the ledger knows it; equal questions are paid once."""

    def prepare(self) -> Body:
        """The requests; called in a thread of its own. May raise ImageError."""

    def read(self, answer: Answer) -> tuple[str | None, str]:
        """What is wrong with an answer, if anything, and what it says."""


@dataclass(frozen=True)
class Outcome:
    """What became of one question. `reason` and `message` say why it has no answer."""

    name: str
    value: str | None = None
    reason: str | None = None
    message: str = ""


@dataclass
class AskingRun:
    """One run over a stream of questions. `stop` ends it when what is on its way has come."""

    endpoint: Endpoint
    ledger: Ledger
    budget: Budget
    concurrency: int = 8
    attempts: int = ATTEMPTS
    stopped: str | None = None
    """Why the run asks for nothing more: a sentence."""
    signal: int | None = None
    """The number of the signal that stopped it."""
    _on_their_way: dict[str, "asyncio.Future[Outcome]"] = field(default_factory=dict)
    _quiet_until: float = 0.0
    _unanswered: int = 0
    _said: float = -math.inf
    """When it was said that the server does not answer."""
    _rejected: int = 0
    _thought: int | None = 0
    """Answers that were only thoughts, until the first other one."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self, why: str) -> None:
        """Ask for nothing more."""
        self.stopped = self.stopped or why
        self._news.set()

    async def answers(self, questions: Iterator[Question | Outcome]) -> AsyncIterator[Outcome]:
        """What became of each question, as answers come; an outcome is handed on.

        Raises:
            ConfigError: the endpoint would answer no request.
            DatasetError: it has not answered for a long time.
        """
        tasks: set[asyncio.Task[Outcome]] = set()
        done: set[asyncio.Task[Outcome]] = set()
        more = True
        try:
            while more or tasks:
                while more and len(tasks) < 2 * self.concurrency:
                    question = await asyncio.to_thread(next, questions, None)
                    if question is None or self.stopped:
                        more = False
                        break
                    tasks.add(asyncio.create_task(self._one(question)))
                if not tasks:
                    break
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in tasks:
                task.cancel()
            # Also of those that ended together with one that failed.
            await asyncio.gather(*tasks, *done, return_exceptions=True)

    async def _one(self, question: Question | Outcome) -> Outcome:
        if isinstance(question, Outcome):
            return question
        key = question.key
        while key in self._on_their_way:  # the same question under another name
            await asyncio.wait([self._on_their_way[key]])
        if known := known_outcome(self.ledger, question.name, key):
            return known
        mine = self._on_their_way[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._new(question)
        finally:
            del self._on_their_way[key]
            mine.cancel()

    async def _new(self, question: Question) -> Outcome:
        name, key = question.name, question.key
        try:
            body = await asyncio.to_thread(question.prepare)
        except ImageError as error:
            return Outcome(name, reason=error.reason, message=f"{name}: {error}")
        problem: str | None = None
        for attempt in range(self.ledger.attempts(key) + 1, self.attempts + 1):
            try:
                answer = await self._ask(body(attempt))
            except Rejected as error:
                self.ledger.give_up(key, error.reason, str(error))
                return Outcome(name, reason=error.reason, message=f"{name}: {error}")
            if answer is None:
                return Outcome(name, reason=NOT_ASKED)
            problem, value = question.read(answer)
            self.ledger.write(key, attempt, answer, problem, value)
            self._notice_thoughts(problem)
            if problem is None:
                return Outcome(name, value)
        reason = problem or "refusal"
        message = f"{name}: {self.attempts} answers cannot be used (the last one: {reason})"
        self.ledger.give_up(key, reason, message)
        return Outcome(name, reason=reason, message=message)

    async def _ask(self, body: dict[str, Any]) -> Answer | None:
        """An answer, however often it takes; None if the run ends before."""
        pause = _FIRST_PAUSE
        while True:
            number = await self._reserved(most_tokens(body), _prompt_tokens(body))
            if number is None:
                return None
            answer = None
            try:
                answer = await self.endpoint.ask(body)
                self._unanswered = 0
                if self.budget.cannot_count(answer):
                    self.stop("the server reports no tokens, so that no limit can be kept")
                return answer
            except TryAgain as error:
                self._missed(error)
                wait = max(error.after, random.uniform(0, pause))
                if error.after:  # everyone waits: the next request would be refused too
                    self._quiet_until = max(self._quiet_until, time.monotonic() + error.after)
                pause = min(2 * pause, _LAST_PAUSE)
            except Rejected as error:
                self._reject(error)
                raise
            finally:
                self.budget.settle(number, answer)
                self._wake()
            await self._sleep(wait)

    async def _reserved(self, max_tokens: int, prompt_tokens: int) -> int | None:
        """The number of what is set aside for a request; None if the run asks for nothing more."""
        while not self.stopped:
            if (quiet := self._quiet_until - time.monotonic()) > 0:
                await self._sleep(quiet)
            elif self.budget.on_their_way >= self.concurrency:
                await self._changed()
            elif (number := self.budget.reserve(max_tokens, prompt_tokens)) is not None:
                return number
            elif self.budget.on_their_way:
                await self._changed()
            else:
                self.stop(
                    "the budget is spent; raise --max-cost-usd or --max-total-tokens to go on"
                )
        return None

    def _missed(self, error: TryAgain) -> None:
        self._unanswered += 1
        if error.after > _LONGEST_WAIT:
            raise DatasetError(
                f"{error}, and asks to wait for {error.after / 3600:,.1f} hours; everything until "
                "now is kept, and the same command goes on then"
            ) from error
        if time.monotonic() - self._said >= _BETWEEN_LINES:
            self._said = time.monotonic()
            logger.warning("%s; trying again", error)
        if self._unanswered >= max(_PATIENCE, _ROUNDS * self.concurrency):
            raise DatasetError(
                f"{self._unanswered} requests in a row got no answer (the last one: {error}); "
                "everything until now is kept, and the same command goes on"
            ) from error

    def _reject(self, error: Rejected) -> None:
        self._rejected += 1
        if self.budget.spent.requests == 0 and self._rejected >= _REJECTED_AT_FIRST:
            raise ConfigError(
                f"the first {_REJECTED_AT_FIRST} requests were all rejected: {error}"
            ) from error

    def _notice_thoughts(self, problem: str | None) -> None:
        if problem != ONLY_THOUGHTS or self._thought is None:
            self._thought = None
            return
        self._thought += 1
        if self._thought >= _THOUGHTS_AT_FIRST:
            raise ConfigError(
                f"the first {_THOUGHTS_AT_FIRST} answers held only thoughts of the model, and no "
                "answer within the limit of tokens; turn its thinking off, with vLLM and others by "
                """--extra-body '{"chat_template_kwargs": {"enable_thinking": false}}', """
                "or name a model that does not think"
            )

    def _wake(self) -> None:
        self._news.set()

    async def _changed(self) -> None:
        """Wait for another answer, or for the end of the run."""
        self._news.clear()
        await self._news.wait()

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        end = time.monotonic() + seconds
        while not self.stopped and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.2))


def known_outcome(ledger: Ledger, name: str, key: str) -> Outcome | None:
    """What the ledger knows of a question."""
    if (found := ledger.caption(key)) is not None:
        return Outcome(name, found.caption)
    if (refused := ledger.refusal(key)) is not None:
        return Outcome(name, reason=refused[0], message=printable(refused[1]))
    return None


def _prompt_tokens(body: dict[str, Any]) -> int:
    """Of a request, by the rule of thumb."""
    characters = images = 0
    for message in body["messages"]:
        content = message["content"]
        for part in [{"text": content}] if isinstance(content, str) else content:
            characters += len(part.get("text", ""))
            images += "image_url" in part
    return prompt_tokens_of(characters, images)


@contextmanager
def stopped_by_signals(run: AskingRun) -> Iterator[None]:
    """Ctrl-C and SIGTERM: what is on its way is waited for, since it is paid."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        run.signal = number
        run.stop(f"{number.name} ended the run; the same command goes on")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
