"""The tables of a run of `serve.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

REFUSAL_SECONDS, NOTICE_SECONDS, IDLE_SECONDS, GROWTH = 0.1, 1.0, 2.0, 1.0


def markdown(result: Mapping[str, Any]) -> str:
    """What was measured, part by part, and beside each duty whether it was kept."""
    parts, options = result["parts"], result["options"]
    writers = {"capacity": _capacity, "load": _load, "aborts": _aborts, "kill": _kill}
    writers["soak"] = _soak
    facts = [
        f"**{name}**\n\n{write(parts[name])}" for name, write in writers.items() if name in parts
    ]
    duties = [row for name, find in DUTIES.items() if name in parts for row in find(parts[name])]
    facts.append(f"**duties**\n\n{table(['part', 'duty', 'measured', 'kept'], duties)}")
    facts.append(
        f"- {options['processors']} processors, which the server (threads of the model: "
        f"{options['threads']}) and the clients share; queue of {options['queue_size']}; torch "
        f"{options['torch']}, transformers {options['transformers']}"
    )
    return "\n\n".join(facts)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _capacity(facts: Mapping[str, Any]) -> str:
    heads = [
        "requests at once",
        "captions/s",
        "range of the rounds",
        "seconds of a caption, median",
    ]
    names = {"alone": "one", "together": "many"}
    rows = [
        [
            name,
            f"{facts[side]['rate']:.1f}",
            f"{min(facts[side]['rates']):.1f} to {max(facts[side]['rates']):.1f}",
            f"{facts[side]['median_seconds']:.2f}",
        ]
        for side, name in names.items()
    ]
    low, high = facts["gains"]
    gain = f"Many at once are answered {facts['gain']:.1f} times as fast ({low:.1f} to {high:.1f})."
    return f"{table(heads, rows)}\n\n{gain}"


def _load(facts: Mapping[str, Any]) -> str:
    heads = ["of the capacity", "requests", "refused", "answered/s", "p50, s", "p90, s", "p99, s"]
    heads += ["refusal p50, ms", "refusal p99, ms", "lost"]
    rows = [
        [
            f"{row['factor']:g} x",
            f"{row['requests']:,}",
            f"{row['refused_share']:.1%}",
            f"{row['rate']:.1f}",
            *(_number(row["seconds"][name], 2) for name in ("p50", "p90", "p99")),
            *(_number(row["refusal_seconds"][name], 0, 1e3) for name in ("p50", "p99")),
            f"{row['lost']}",
        ]
        for row in facts["rows"]
    ]
    return table(heads, rows)


def _aborts(facts: Mapping[str, Any]) -> str:
    heads = [
        "requests",
        "left before their end",
        "answered before",
        "slots free after, s, at worst",
    ]
    worst = f"{facts['seconds_to_idle']['worst']:.2f}"
    return table(heads, [[f"{facts[name]}" for name in ("requests", "left", "answered")] + [worst]])


def _kill(facts: Mapping[str, Any]) -> str:
    heads = ["accepted at the kill", "/ready says 503 after, s", "ready again after, s", "requests"]
    rows = [
        [
            f"{row['at_work']:.0f}",
            f"{row['seconds_to_503']:.2f}",
            f"{row['seconds_to_ready']:.1f}",
            f"{row['requests']}",
            f"{row['refused']}",
            f"{row['lost']}",
        ]
        for row in facts["rows"]
    ]
    return table([*heads, "refused", "lost"], rows)


def _soak(facts: Mapping[str, Any]) -> str:
    heads = ["seconds", "requests", "memory, MB", "MB a minute", "open files, before and after"]
    mb, files = facts["mb"], facts["files"]
    row = [
        f"{facts['seconds']:.0f}",
        f"{sum(facts['requests'].values()):,}",
        f"{mb['first']:.0f} to {mb['last']:.0f}",
        f"{facts['mb_a_minute']:+.2f}",
        f"{files['before']} and {files['after']}",
    ]
    return table(heads, [row])


def _load_duties(facts: Mapping[str, Any]) -> list[list[str]]:
    hard = facts["rows"][-1]
    refusal, slow = hard["refusal_seconds"]["p99"], hard["seconds"]["p99"]
    bound, lost = (
        facts["bound_seconds"],
        sum(max(row["lost"], row["broken"]) for row in facts["rows"]),
    )
    return [
        verdict("load", "accepted and lost: none", f"{lost}", lost == 0),
        verdict(
            "load",
            f"p99 of refusals at {hard['factor']:g} x at most {REFUSAL_SECONDS * 1e3:.0f} ms",
            f"{_number(refusal, 0, 1e3)} ms" if refusal is not None else "none was refused",
            refusal is None or refusal <= REFUSAL_SECONDS,
        ),
        verdict(
            "load",
            f"p99 of accepted at {hard['factor']:g} x at most 1.2 x (queue / capacity + one "
            f"alone) = {bound:.2f} s",
            f"{_number(slow, 2)} s",
            slow is not None and slow <= bound,
        ),
    ]


def _aborts_duties(facts: Mapping[str, Any]) -> list[list[str]]:
    worst = facts["seconds_to_idle"]["worst"]
    duty = f"slots free within {IDLE_SECONDS:g} s"
    return [verdict("aborts", duty, f"{worst:.2f} s", worst <= IDLE_SECONDS)]


def _kill_duties(facts: Mapping[str, Any]) -> list[list[str]]:
    noticed = max(row["seconds_to_503"] for row in facts["rows"])
    lost = sum(row["lost"] for row in facts["rows"])
    return [
        verdict(
            "kill",
            f"/ready says 503 within {NOTICE_SECONDS:g} s",
            f"{noticed:.2f} s",
            noticed <= NOTICE_SECONDS,
        ),
        verdict("kill", "accepted and lost: none", f"{lost}", lost == 0),
    ]


def _soak_duties(facts: Mapping[str, Any]) -> list[list[str]]:
    slope, files = facts["mb_a_minute"], facts["files"]
    wrong = [name for name, right in facts["sums"].items() if not right]
    wrong += [f"{what} ({times})" for what, times in facts["unexpected"].items()]
    return [
        verdict(
            "soak",
            f"memory grows by at most {GROWTH:g} MB a minute",
            f"{slope:+.2f} MB",
            slope <= GROWTH,
        ),
        verdict(
            "soak",
            "as many open files as before",
            f"{files['after'] - files['before']:+d}",
            files["after"] <= files["before"],
        ),
        verdict("soak", "counters add up", "; ".join(wrong) or "all do", not wrong),
    ]


DUTIES = {
    "load": _load_duties,
    "aborts": _aborts_duties,
    "kill": _kill_duties,
    "soak": _soak_duties,
}


def verdict(part: str, duty: str, measured: str, kept: bool) -> list[str]:
    return [part, duty, measured, "yes" if kept else "NO"]


def _number(value: float | None, decimals: int, factor: float = 1) -> str:
    return "" if value is None else f"{value * factor:.{decimals}f}"
