"""The page about a curation: counts by reason, histograms, examples. One file without scripts.

Captions, names and links come from strangers; the template escapes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from vlv.data.curation.histograms import QUANTITIES, Histograms, bin_labels
from vlv.data.curation.job import Job
from vlv.data.remote.locations import shown_name
from vlv.html import render

# What a reason means; rules are explained by their conditions.
_MEANINGS = {
    "duplicate": "the same pixels as an earlier image that was kept",
    "near-duplicate": "looks like an earlier image that was kept (shown beside it)",
    "flat": "one colour, or a plain gradient",
    "text-only": "nothing but text on a plain ground",
    "blocklist": "a word, a domain or a hash of the blocklist",
    "no-url": "the row has no link",
    "damaged": "a part of the source that cannot be read",
    "unreadable": "a file that cannot be read",
    "empty": "a file without bytes",
    "too-large-file": "a file larger than an image may be",
    "unknown-format": "no image in a format that is read",
    "too-many-pixels": "more pixels than are decoded",
    "truncated": "the file ends early",
    "corrupt": "does not decode",
    "too-much-memory": "does not decode in the memory that is allowed",
    "too-slow": "does not decode in the time that is allowed",
    "crashed": "crashed its decoder",
    "bad-sample": "a sample without a usable image",
    "dotted-name": "a name with dots, where readers of shards end it",
}
_BAR_WIDTH, _HEIGHT = 44, 120


@dataclass(frozen=True)
class Example:
    """A dropped sample: its name, the value that shows the reason, a JPEG as base64, and that of
    its original, if it is a duplicate.
    """

    name: str
    value: str | None
    picture: str | None = None
    original: str | None = None


@dataclass(frozen=True)
class _Bar:
    """A bin of a histogram: heights in pixels of what was kept and of what was dropped above it."""

    label: str
    kept: int
    dropped: int
    kept_height: float
    dropped_height: float


def curation_page(
    job: Job,
    counts: Mapping[str, Any],
    histograms: Histograms,
    examples: Mapping[str, Sequence[Example]],
) -> str:
    """The page as HTML.

    counts: samples, kept, and dropped by reason.
    """
    charts = [
        (QUANTITIES[name][0], _bars(name, bins))
        for name, bins in histograms.counts.items()
        if any(map(any, bins))
    ]
    return render(
        "vlv.data.curation",
        "curation.html.j2",
        source=PurePath(shown_name(job.source)).name or shown_name(job.source),
        what="links" if job.kind == "links" else "images",
        counts=counts,
        meaning={reason: _meaning(job, reason) for reason in counts["dropped"]},
        charts=charts,
        examples={reason: examples.get(reason, ()) for reason in counts["dropped"]},
        bar_width=_BAR_WIDTH,
        height=_HEIGHT,
    )


def _meaning(job: Job, reason: str) -> str:
    meanings = [rule.meaning for rule in job.rules if rule.reason == reason]
    if meanings:
        return ", or ".join(meanings)
    unknown = [rule for rule in job.rules if f"no-{rule.reason}" == reason]
    if unknown:
        return f"no value for {' and '.join(dict.fromkeys(sum((r.columns for r in unknown), ())))}"
    return _MEANINGS[reason]


def _bars(name: str, bins: Sequence[Sequence[int]]) -> list[_Bar]:
    most = max(map(sum, bins))
    return [
        _Bar(label, kept, dropped, _HEIGHT * kept / most, _HEIGHT * dropped / most)
        for label, (kept, dropped) in zip(bin_labels(name), bins, strict=True)
    ]
