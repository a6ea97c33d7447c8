"""Models behind endpoints that judge captions or answer from them, and one run of questions.

All answers of a command are in one ledger in its folder of results, whichever model gave them: the
same command asks only for what is missing.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlv.endpoints.address import key_in
from vlv.endpoints.asking import (
    NOT_ASKED,
    AskingRun,
    Outcome,
    Question,
    known_outcome,
    stopped_by_signals,
)
from vlv.endpoints.budget import Budget, Limits, Prices
from vlv.endpoints.chat import AnyQuestion
from vlv.endpoints.endpoint import Endpoint
from vlv.endpoints.extra_body import ExtraBody, parse_extra_body
from vlv.endpoints.ledger import Ledger
from vlv.errors import ConfigError
from vlv.inference.records import Refused
from vlv.text import printable


@dataclass(frozen=True)
class Judge:
    """A model behind an address, under the name that tables give it."""

    name: str
    base_url: str
    model: str
    extra_body: ExtraBody = field(default_factory=dict)


def judge_from(text: str) -> Judge:
    """A judge of `NAME=URL#MODEL`; without a name, it has the model's.

    Raises:
        ConfigError: there is no address or no model in it.
    """
    rest, _, model = text.rpartition("#")
    name, sign, url = rest.partition("=")
    if not sign or "://" in name:
        name, url = model, rest
    if not model or not name or "://" not in url:
        raise ConfigError(f"--judge {printable(text)} is not NAME=URL#MODEL")
    return Judge(name, url, model)


def with_extra_bodies(judges: Sequence[Judge], texts: Sequence[str]) -> list[Judge]:
    """The judges with the fields of `JSON`, for all of them, and `NAME=JSON`, for one.

    Raises:
        ConfigError: a text is no JSON object, or names no judge.
    """
    for_all: ExtraBody = {}
    own: dict[str, ExtraBody] = {}
    for text in texts:
        name, sign, json_text = ("", "", text) if text.lstrip()[:1] == "{" else text.partition("=")
        if not sign:
            for_all = {**for_all, **parse_extra_body(json_text or text)}
        elif name in (one.name for one in judges):
            own[name] = {**own.get(name, {}), **parse_extra_body(json_text)}
        else:
            raise ConfigError(
                f"--extra-body {printable(text)} names no judge; the judges are "
                f"{', '.join(printable(one.name) for one in judges)}"
            )
    return [replace(one, extra_body={**for_all, **own.get(one.name, {})}) for one in judges]


@dataclass(frozen=True)
class Keys:
    """The environment variables that hold the servers' keys.

    default: of judges that `own` does not name; None if they get no key. own: judge's name -> its
    variable.
    """

    default: str | None
    own: Mapping[str, str] = field(default_factory=dict)

    def of(self, judge: Judge) -> str | None:
        """The key that is sent to a judge's server."""
        variable = self.own.get(judge.name, self.default)
        return None if variable is None else key_in(variable)


def keys_from(texts: Sequence[str], judges: Iterable[Judge], default: str) -> Keys:
    """Keys by `VARIABLE`, for all judges, and `NAME=VARIABLE`, for one of them. Where only single
    judges are named, the others get no key.

    Raises:
        ConfigError: two variables for one judge or for all, or a judge that there is not.
    """
    if not texts:
        return Keys(default)
    names = [one.name for one in judges]
    own: dict[str, str] = {}
    for_all: str | None = None
    for text in texts:
        name, sign, variable = text.rpartition("=")
        if (sign and name in own) or (not sign and for_all is not None):
            raise ConfigError(f"--api-key-env names a second variable: {printable(text)}")
        if not sign:
            for_all = variable
        elif name in names:
            own[name] = variable
        else:
            raise ConfigError(
                f"--api-key-env {printable(text)} names no judge; the judges are "
                f"{', '.join(map(printable, names))}"
            )
    return Keys(for_all, own)


@dataclass(frozen=True)
class Service:
    """What asking may take."""

    keys: Keys
    prices: Prices
    limits: Limits
    concurrency: int = 8
    timeout: float = 120


@dataclass
class Asked:
    """What became of questions, of all models together.

    values: model's name -> question's name -> answer.
    """

    values: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    not_asked: int = 0
    stopped: str | None = None
    signal: int | None = None
    spent: dict[str, float | int | None] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What a result records of the asking."""
        return {
            "spent": self.spent,
            "problems": self.problems,
            "stopped": self.stopped,
            "not_asked": self.not_asked,
        }


Questions = Callable[[Judge], Iterable[Question]]
"""All questions for a model, each with a name of its own; called more than once."""


@dataclass(frozen=True)
class Plan:
    """What a run would take."""

    total: int
    left: int
    tokens: int
    usd: float | None
    paid_before: int


def ask_judges(
    judges: Iterable[Judge],
    questions: Questions,
    folder: Path,
    service: Service,
    purpose: str,
    *,
    images: int = 0,
    usual_tokens: int = 100,
    retry_failed: bool = False,
    dry_run: bool = False,
    planned: Callable[[Plan], None] = lambda plan: None,
    seen: Callable[[Outcome], None] = lambda outcome: None,
) -> Asked:
    """Ask what the ledger in `folder` lacks, and return all answers.

    images, usual_tokens: of a usual question and its answer, for the estimate. planned: called
    before anything is asked. seen: called with each outcome.

    Raises:
        ConfigError: an endpoint would answer no request.
        DatasetError: it has not answered for a long time, or the ledger is in use.
    """
    asked = Asked()
    folder.mkdir(parents=True, exist_ok=True)
    with Ledger(folder, AnyQuestion(purpose), "") as ledger:
        if retry_failed:
            ledger.forget_refusals()
        budget = Budget(
            ledger.spent(),
            service.prices,
            service.limits,
            "",
            images=images,
            completion_tokens=usual_tokens,
        )
        judges = list(judges)
        planned(_plan(judges, questions, ledger, budget, service.prices))
        if dry_run:
            return asked
        for judge in judges:
            asking = _Asking(judge, questions, service, ledger, budget, asked, seen)
            asyncio.run(asking.run())
            asking.collect()
        spent = budget.spent
        asked.spent = {
            "requests": spent.requests,
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            "usd": round(budget.usd, 6) if service.prices.known else None,
        }
        asked.problems = ledger.problems()
    return asked


def _plan(
    judges: list[Judge], questions: Questions, ledger: Ledger, budget: Budget, prices: Prices
) -> Plan:
    total = left = 0
    for judge in judges:
        for question in questions(judge):
            total += 1
            left += known_outcome(ledger, question.name, question.key) is None
    tokens, usd = budget.expected(left)
    return Plan(total, left, tokens, usd if prices.known else None, budget.spent.requests)


@dataclass
class _Asking:
    judge: Judge
    questions: Questions
    service: Service
    ledger: Ledger
    budget: Budget
    asked: Asked
    seen: Callable[[Outcome], None]
    failed: dict[str, Outcome] = field(default_factory=dict)
    """Questions whose image cannot be sent, of which the ledger knows nothing."""

    async def run(self) -> None:
        """Ask for what is missing, unless an earlier model's run was stopped."""
        asked, service = self.asked, self.service
        if asked.stopped:
            return
        key = service.keys.of(self.judge)
        async with Endpoint(
            self.judge.base_url, key, timeout=service.timeout, connections=service.concurrency
        ) as endpoint:
            run = AskingRun(endpoint, self.ledger, self.budget, service.concurrency)
            with stopped_by_signals(run):
                async for outcome in run.answers(iter(self.questions(self.judge))):
                    self.seen(outcome)
                    if outcome.reason not in (None, NOT_ASKED):
                        self.failed[outcome.name] = outcome
        asked.stopped, asked.signal = run.stopped, run.signal

    def collect(self) -> None:
        """Enter what is known of every question, in order."""
        answers = self.asked.values.setdefault(self.judge.name, {})
        for question in self.questions(self.judge):
            name = question.name
            outcome = known_outcome(self.ledger, name, question.key) or self.failed.get(name)
            if outcome is None:
                self.asked.not_asked += 1
            elif outcome.value is not None:
                answers[name] = outcome.value
            else:
                message = f"{self.judge.name}: {outcome.message}"
                reason = str(outcome.reason)
                self.asked.refused.append(Refused(f"{self.judge.name}: {name}", reason, message))
