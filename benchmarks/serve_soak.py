"""Good, bad and aborted requests for minutes: does the service grow, and do its counters add up?"""

import argparse
import asyncio
import base64
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from serve_faults import stay
from serve_load import arrivals, measure, open_loop
from served import CAPTION, DRAWING, Answer, Asked, Counts, Served, scenes, until

_LOAD = 0.4  # of the capacity in captions: drawings take more than a caption
_SECONDS_BETWEEN_READINGS = 0.5
_LONGEST_STAY = 1.0
# What the parts of the server that are not the model's ask of each other, and what watches it.
_NOT_WORK = ("/metrics", "/ready")


@dataclass(frozen=True)
class Reading:
    """The server with all its processes at one moment."""

    at: float
    bytes: int
    files: int


@dataclass(frozen=True)
class Kind:
    """Requests of one kind: how often they come, what they get, and whether they take a slot."""

    name: str
    share: float
    asked: list[Asked]
    status: int
    leaves: bool = False


def kinds() -> list[Kind]:
    images = scenes(8)
    drawn = {"num_inference_steps": 4, "scheduler": "dpm++"}
    broken = [_broken(image) for image in images]
    return [
        Kind("captions", 0.4, [Asked.of(CAPTION, image=one) for one in images], 200),
        Kind("streams", 0.1, [Asked.of(CAPTION, image=one, stream=True) for one in images], 200),
        Kind("searches", 0.05, [Asked.of(CAPTION, image=one, num_beams=4) for one in images], 200),
        Kind("drawings", 0.05, [Asked.of(DRAWING, image=one, **drawn) for one in images], 200),
        Kind("broken images", 0.1, [Asked.of(CAPTION, image=one) for one in broken], 422),
        Kind(
            "unknown fields",
            0.1,
            [Asked.of(CAPTION, image=images[0], beams=2)],
            400,
        ),
        Kind(
            "captions that are left",
            0.1,
            [Asked.of(CAPTION, image=one, stream=True, min_new_tokens=200) for one in images],
            200,
            leaves=True,
        ),
        Kind(
            "drawings that are left",
            0.1,
            [Asked.of(DRAWING, image=one, num_inference_steps=50) for one in images],
            200,
            leaves=True,
        ),
    ]


def _broken(image: str) -> str:
    """A file that ends in its middle."""
    head, _, data = image.partition(",")
    half = base64.b64decode(data)[: len(data) // 2]
    return f"{head},{base64.b64encode(half).decode()}"


async def soak(
    server: Served, options: argparse.Namespace, before: dict[str, Any]
) -> dict[str, Any]:
    """First without a look, until caches are warm, then with readings."""
    mixed = kinds()
    if "capacity" in before:
        rate = before["capacity"]["together"]["rate"]
    else:
        rate, _ = await measure(server, mixed[0].asked, options)
    start = await server.counts()
    sent = await _traffic(server, mixed, _LOAD * rate, options.warm_up, options.seed)
    quiet = await _quiet(server)
    readings: list[Reading] = []
    reading = asyncio.create_task(_read(server, readings))
    sent += await _traffic(server, mixed, _LOAD * rate, options.soak_seconds, options.seed + 1)
    reading.cancel()
    after = await _quiet(server)
    facts = _added_up(start, await server.counts(), sent)
    mb = [round(one.bytes / 1e6, 2) for one in readings]
    minutes = [one.at / 60 for one in readings]
    return {
        "seconds": options.soak_seconds,
        "load": _LOAD * rate,
        "requests": dict(Counter(kind.name for kind, _ in sent)),
        "mb_a_minute": float(np.polyfit(minutes, mb, 1)[0]),
        "mb": {"first": mb[0], "last": mb[-1], "most": max(mb), "readings": mb},
        "files": {"before": quiet.files, "after": after.files},
        "quiet_mb": {"before": quiet.bytes / 1e6, "after": after.bytes / 1e6},
        **facts,
    }


Sent = list[tuple[Kind, Answer | None]]


async def _traffic(
    server: Served, mixed: list[Kind], rate: float, seconds: float, seed: int
) -> Sent:
    """What was sent, and what came of it; None where the client left."""
    random = np.random.default_rng(seed)
    due = arrivals(rate, seconds, seed)
    chosen = random.choice(len(mixed), len(due), p=[kind.share for kind in mixed])
    stays = random.uniform(0, _LONGEST_STAY, len(due))

    async def send(at: float, number: int) -> Answer | None:
        kind = mixed[chosen[number]]
        asked = kind.asked[number % len(kind.asked)]
        if not kind.leaves:
            return await server.ask(asked, at)
        await stay(server, asked, float(stays[number]))
        return None

    answers = await open_loop(server, due, send)
    return [(mixed[kind], answer) for kind, answer in zip(chosen, answers, strict=True)]


async def _read(server: Served, readings: list[Reading]) -> None:
    start = time.perf_counter()
    while True:
        readings.append(_look(server, time.perf_counter() - start))
        await asyncio.sleep(_SECONDS_BETWEEN_READINGS)


def _look(server: Served, at: float) -> Reading:
    """Resident memory and open files of the server and all below it."""
    size = files = 0
    for process in [server.process, *server.process.children(recursive=True)]:
        try:
            size, files = size + process.memory_info().rss, files + process.num_fds()
        except psutil.NoSuchProcess:
            continue
    return Reading(at, size, files)


async def _quiet(server: Served) -> Reading:
    """A reading when nothing is asked and no client is connected but the one that watches."""
    await until(server.idle, 60, 0.05)
    await server.wire.close()
    await server.load.aclose()
    server.load = server.client()
    await asyncio.sleep(0.5)
    return _look(server, 0)


def _added_up(start: Counts, end: Counts, sent: Sent) -> dict[str, Any]:
    """Every request was counted once, and as what it was; what does not add up is reported."""

    def grown(name: str, **labels: str) -> int:
        return int(end.sum(name, **labels) - start.sum(name, **labels))

    apart = sum(grown("vlv_requests_total", route=route) for route in _NOT_WORK)
    requests = grown("vlv_requests_total") - apart
    accepted, finished = grown("vlv_accepted_total"), grown("vlv_finished_total")
    refused = grown("vlv_refused_total")
    answered = [(kind, answer) for kind, answer in sent if answer is not None]
    odd = Counter(
        f"{kind.name}: {answer.status} {answer.code}"
        for kind, answer in answered
        if answer.status not in (kind.status, 429)
    )
    sums = {
        "requests = sent": requests == len(sent),
        # A malformed request takes a slot too: the slot comes before the body.
        "requests = accepted + refused": requests == accepted + refused,
        "accepted = finished": accepted == finished,
        "ok + left = those that clients had or left": grown("vlv_finished_total", outcome="ok")
        + grown("vlv_finished_total", outcome="client_gone")
        == sum(answer is None or answer.status == 200 for _, answer in sent),
        "refused images = broken ones": grown("vlv_finished_total", outcome="image_refused")
        == sum(answer.status == 422 for _, answer in answered),
        "client errors = malformed ones": grown("vlv_finished_total", outcome="client_error")
        == sum(answer.status == 400 for _, answer in answered),
    }
    outcomes = {outcome: int(value) for (outcome,), value in end.by("vlv_finished_total").items()}
    return {
        "counted": {"requests": requests, "accepted": accepted, "refused": refused, **outcomes},
        "sums": sums,
        "unexpected": dict(odd),
    }
