"""An inspection in figures: percentiles, histograms and shares, for a page and for programs."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vlv.data.inspection.inspecting import Inspection
from vlv.text import language_of

_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_SIDES = (64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
_RATIOS = (0.25, 0.5, 0.67, 0.8, 0.95, 1.05, 1.25, 1.5, 2.0, 4.0)
_WORDS = (1, 5, 10, 20, 40, 80, 160, 320)


@dataclass(frozen=True)
class Histogram:
    """bins: (label, count); labels say where a bin begins and ends."""

    title: str
    bins: list[tuple[str, int]]
    quantiles: list[float]
    """Least, 5%, median, 95%, largest; empty if there is nothing."""


def histogram(title: str, counts: Counter[Any], edges: Sequence[float]) -> Histogram:
    """Counts by value in bins: below the first edge, between edges, and from the last one on."""
    bins = [0] * (len(edges) + 1)
    for value, count in counts.items():
        bins[bisect_right(edges, value)] += count
    labels = [f"< {edges[0]:g}"]
    labels += [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    labels += [f"≥ {edges[-1]:g}"]
    filled = [at for at, count in enumerate(bins) if count]
    shown = range(filled[0], filled[-1] + 1) if filled else range(0)
    return Histogram(title, [(labels[at], bins[at]) for at in shown], quantiles(counts))


def quantiles(counts: Counter[Any]) -> list[float]:
    """The values at 0, 5, 50, 95 and 100% of all."""
    total = sum(counts.values())
    if not total:
        return []
    found, below, wanted = [], 0, list(_QUANTILES)
    for value in sorted(counts):
        below += counts[value]
        while wanted and below >= max(1, wanted[0] * total):
            found.append(value)
            wanted.pop(0)
    return found


def histograms(found: Inspection) -> dict[str, Histogram]:
    """By a short name."""
    return {
        "shorter_side": histogram("Shorter side, pixels", found.shorter_sides, _SIDES),
        "width": histogram("Width, pixels", found.widths, _SIDES),
        "height": histogram("Height, pixels", found.heights, _SIDES),
        "aspect_ratio": histogram("Aspect ratio, width by height", found.ratios, _RATIOS),
        "caption_words": histogram("Caption length, words", found.words, _WORDS),
    }


def languages(found: Inspection) -> Counter[str]:
    """The languages of the sampled captions, by ISO 639-1. Those of less than four words are not
    detected: a guess would mean nothing.

    Raises:
        ConfigError: py3langid is not installed.
    """
    captions = [caption for _, caption in found.to_tell.items()]
    return Counter(
        language_of(one) if len(one.split()) >= 4 else "too short to tell" for one in captions
    )


def summary(found: Inspection, spoken: Counter[str]) -> dict[str, Any]:
    """All figures, for JSON."""
    copies, _ = found.files.counts()
    repeated, most = found.repeated_captions()
    return {
        "images": found.images,
        "refused": dict(found.refused.most_common()),
        "bytes": found.bytes,
        "decoded": found.decoded,
        "formats": dict(found.formats.most_common()),
        "copies_of_files": copies,
        "captioned": found.captioned,
        "several_captions": found.several_captions,
        "repeated_captions": repeated,
        "most_repeated_captions": [{"caption": text, "count": count} for text, count in most],
        "languages": dict(spoken.most_common()),
        "languages_of": sum(spoken.values()),
        **{
            name: {"quantiles": one.quantiles, "bins": [list(each) for each in one.bins]}
            for name, one in histograms(found).items()
        },
    }
