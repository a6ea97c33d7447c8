"""How much the service answers, and what becomes of what is too much."""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
from served import CAPTION, GONE, Answer, Asked, Served, quantile, scenes, until

FACTORS = (0.5, 1.0, 4.0)
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_IMAGES = 32
_WARM_UP = 8


def captions() -> list[Asked]:
    """Requests for captions, each of another image."""
    return [Asked.of(CAPTION, image=image) for image in scenes(_IMAGES)]


async def capacity(server: Served, options: argparse.Namespace, _: Any) -> dict[str, Any]:
    """Captions a second by clients that ask again as soon as they are answered: one client, and
    many, in turn.
    """
    asked = captions()
    await closed_loop(server, asked, _WARM_UP, options.seconds / options.rounds / 4)
    rates: dict[str, list[float]] = {"alone": [], "together": []}
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    for _round in range(options.rounds):
        for side, clients in (("alone", 1), ("together", options.in_flight)):
            made = await closed_loop(server, asked, clients, options.seconds / options.rounds)
            rates[side].append(_rate(made, clients))
            seconds[side] += [one.seconds for one in made]
    sides = {
        side: {
            "rate": statistics.median(rates[side]),
            "rates": rates[side],
            "median_seconds": statistics.median(seconds[side]),
            "captions": len(seconds[side]),
        }
        for side in rates
    }
    gains = [b / a for a, b in zip(rates["alone"], rates["together"], strict=True)]
    return {**sides, "gain": statistics.median(gains), "gains": [min(gains), max(gains)]}


async def closed_loop(
    server: Served, asked: Sequence[Asked], clients: int, seconds: float
) -> list[Answer]:
    """All answers to clients that ask until the time is up, in the order of their ends."""
    end, turn, made = time.perf_counter() + seconds, count(), []

    async def client() -> None:
        while time.perf_counter() < end or len(made) < 2 * clients:
            answer = await server.ask(asked[next(turn) % len(asked)])
            if answer.status != 200:
                raise RuntimeError(f"a caption failed: {answer.status} {answer.code}")
            made.append(answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return sorted(made, key=lambda one: one.ended)


def _rate(made: Sequence[Answer], clients: int) -> float:
    """Answers a second while all clients asked: from the first answer that each of them could have
    had, to the last that came before one of them stopped.
    """
    last = len(made) - clients
    return (last - clients + 1) / (made[last].ended - made[clients - 1].ended)


async def load(
    server: Served, options: argparse.Namespace, before: dict[str, Any]
) -> dict[str, Any]:
    """Requests that come at random moments, on average `factor` times as many as the capacity."""
    asked = captions()
    if "capacity" in before:
        rate = before["capacity"]["together"]["rate"]
        alone = before["capacity"]["alone"]["median_seconds"]
    else:
        rate, alone = await measure(server, asked, options)
    await closed_loop(server, asked, _WARM_UP, 1)
    bound = 1.2 * (options.queue_size / rate + alone)
    rows = []
    for number, factor in enumerate(FACTORS):
        due = arrivals(factor * rate, options.seconds, options.seed + number)
        counted = await server.counts()
        answers = await open_loop(server, due, lambda at, n: server.ask(asked[n % _IMAGES], at))
        await until(server.idle, 60, 0.05)
        counts = await server.counts()
        taken = counts.sum("vlv_accepted_total") - counted.sum("vlv_accepted_total")
        rows.append({"factor": factor, **_reported(answers, options.seconds, int(taken))})
    return {"capacity": rate, "alone_seconds": alone, "bound_seconds": bound, "rows": rows}


async def measure(
    server: Served, asked: Sequence[Asked], options: argparse.Namespace
) -> tuple[float, float]:
    """Captions a second together, and seconds of one alone, where --rate does not say."""
    alone = await closed_loop(server, asked, 1, 1)
    median = statistics.median(one.seconds for one in alone)
    if options.rate is not None:
        return options.rate, median
    together = await closed_loop(server, asked, options.in_flight, min(options.seconds, 10))
    return _rate(together, options.in_flight), median


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments within `seconds`, independent of one another: a Poisson process."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, size=int(2 * rate * seconds) + 100)
    return [float(at) for at in gaps.cumsum() if at < seconds]


async def open_loop(
    server: Served, due: Sequence[float], ask: Callable[[float, int], Awaitable[Answer]]
) -> list[Answer]:
    """Send each request at its moment, answered or not, and then wait for all answers."""
    start = time.perf_counter() + 0.1
    tasks = []
    for number, after in enumerate(due):
        await asyncio.sleep(max(0.0, start + after - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(start + after, number)))
    return await asyncio.gather(*tasks)


def _reported(answers: Sequence[Answer], seconds: float, taken: int) -> dict[str, Any]:
    """`lost` are requests that the server took in and did not answer, `broken` those that it
    neither answered nor refused.
    """
    good = [one for one in answers if one.status == 200]
    refused = [one for one in answers if one.status == 429]
    start = min(one.due for one in answers)
    in_time = sum(one.ended <= start + seconds for one in good)
    return {
        "requests": len(answers),
        "accepted": taken,
        "lost": taken - len(good),
        "broken": len(answers) - len(good) - len(refused),
        "gone": sum(one.status == GONE for one in answers),
        "refused_share": len(refused) / len(answers),
        "rate": in_time / seconds,
        "seconds": _quantiles([one.seconds for one in good]),
        "refusal_seconds": _quantiles([one.seconds for one in refused]),
        "generator_late_seconds": _quantiles([one.sent - one.due for one in answers]),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float | None]:
    return {name: quantile(values, share) for name, share in QUANTILES.items()}
