"""Clients that leave before they are answered, and the process with the model killed at work."""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import numpy as np
from serve_load import _IMAGES, arrivals, captions, measure, open_loop
from served import CAPTION, DRAWING, Asked, Served, scenes, until

_WAVE = 25
_LONGEST_STAY = 2.0
_LOAD = 0.7  # of the capacity: what is lost, is lost by the kill
_STEPS = 50


async def aborts(server: Served, options: argparse.Namespace, _: dict[str, Any]) -> dict[str, Any]:
    """Waves of requests that all leave, at random moments of their own; how long after the last
    has left its wave is forgotten.
    """
    random = np.random.default_rng(options.seed)
    asked = _streams_and_drawings()
    left = answered = 0
    seconds = []
    size = min(_WAVE, options.queue_size)
    for start in range(0, options.aborted, size):
        wave = range(start, min(start + size, options.aborted))
        stays = random.uniform(0, _LONGEST_STAY, len(wave))
        ends = await asyncio.gather(
            *(
                stay(server, asked[number % len(asked)], float(moment))
                for number, moment in zip(wave, stays, strict=True)
            )
        )
        left += ends.count(True)
        answered += ends.count(False)
        seconds.append(await until(server.idle, 60, 0.01))
    counts = await server.counts()
    return {
        "requests": options.aborted,
        "left": left,
        "answered": answered,
        "client_gone": counts.sum("vlv_finished_total", outcome="client_gone"),
        "seconds_to_idle": {"worst": max(seconds), "waves": seconds},
    }


def _streams_and_drawings() -> list[Asked]:
    """In turn; the drawings take seconds, so that most are left in the middle."""
    return [
        asked
        for seed, image in enumerate(scenes(_WAVE))
        for asked in (
            Asked.of(CAPTION, image=image, stream=True, min_new_tokens=250, temperature=1.0),
            Asked.of(DRAWING, image=image, num_inference_steps=_STEPS, seed=seed),
        )
    ]


async def stay(server: Served, asked: Asked, seconds: float) -> bool:
    """Ask, take what comes for some seconds after the request is sent, and go; whether that was
    before the end.
    """
    sent = asyncio.Event()

    async def trace(event: str, _: Any) -> None:
        if event == "http11.send_request_body.complete":
            sent.set()

    asking = asyncio.create_task(_take(server, asked, trace))
    sending = asyncio.create_task(sent.wait())
    await asyncio.wait([asking, sending], return_when=asyncio.FIRST_COMPLETED)
    sending.cancel()
    await asyncio.wait([asking], timeout=seconds)
    if asking.done():
        asking.result()
        return False
    asking.cancel()
    await asyncio.wait([asking])
    return True


async def _take(server: Served, asked: Asked, trace: Callable[[str, Any], Awaitable[None]]) -> None:
    request = server.load.build_request(
        "POST",
        asked.path,
        content=asked.body,
        headers={"Content-Type": "application/json"},
        extensions={"trace": trace, **_no_timeout()},
    )
    answer = await server.load.send(request, stream=True)
    try:
        async for _piece in answer.aiter_bytes():
            pass
    finally:
        await answer.aclose()


def _no_timeout() -> dict[str, Any]:
    return {"timeout": httpx.Timeout(None).as_dict()}


async def kill(
    server: Served, options: argparse.Namespace, before: dict[str, Any]
) -> dict[str, Any]:
    """Under load, half of it streamed, the worker dies; how long until `/ready` says so, how long
    until another one works, and who is still answered.
    """
    asked = captions()
    asked += [Asked(one.path, one.body[:-1] + b', "stream": true}') for one in asked]
    random = np.random.default_rng(options.seed)
    if "capacity" in before:
        rate = before["capacity"]["together"]["rate"]
    else:
        rate, _ = await measure(server, asked[:_IMAGES], options)
    rows = []
    for number in range(options.kills):
        due = arrivals(_LOAD * rate, options.seconds / 2, options.seed + number)
        loading = asyncio.create_task(
            open_loop(
                server, due, lambda at, n: server.ask(asked[int(random.integers(len(asked)))], at)
            )
        )
        await asyncio.sleep(options.seconds / 4)
        rows.append(await _killed(server, loading))
    counts = await server.counts()
    return {"load": _LOAD * rate, "restarts": counts.sum("vlv_worker_restarts_total"), "rows": rows}


async def _killed(server: Served, loading: "asyncio.Task[Sequence[Any]]") -> dict[str, Any]:
    async def busy() -> bool:
        return not await server.idle()

    await until(busy, 60, 0.01)
    counted = await server.counts()
    server.worker().kill()
    start = time.perf_counter()

    async def away() -> bool:
        return not await server.ready()

    noticed = await until(away, 60, 0.005)
    await until(server.ready, 120, 0.02)
    recovered = time.perf_counter() - start
    answers = await loading
    await until(server.idle, 60, 0.05)
    counts = await server.counts()
    refused = [one for one in answers if one.status in (429, 503)]
    good = sum(one.status == 200 for one in answers)
    return {
        "at_work": counted.sum("vlv_slots_used"),
        "seconds_to_503": noticed,
        "seconds_to_ready": recovered,
        "requests": len(answers),
        "refused": len(refused),
        "lost": len(answers) - len(refused) - good,
        "outcomes": {
            outcome: value
            for (outcome,), value in counts.by("vlv_finished_total").items()
            if outcome != "ok"
        },
    }
