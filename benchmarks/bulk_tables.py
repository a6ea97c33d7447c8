"""The tables of a run of `bulk.py`."""

from collections.abc import Mapping
from typing import Any

from serve_tables import table, verdict

RATE = 0.9  # of the limit, at least, while a job works
GROWTH = 1.05  # of memory, at most, from a job to one ten times as large


def markdown(result: Mapping[str, Any]) -> str:
    """Speed beside the limit, memory by the size of a job, and whether the duties were kept."""
    options, shares = result["options"], result["shares_of_the_limit"]
    heads = ["side", "images/s", "seconds", "processors at work", "of the limit"]
    speeds = [
        [
            row["side"],
            f"{row['count'] / row['wall']:.1f}",
            f"{row['wall']:.1f}",
            "" if row["processor"] is None else f"{row['processor'] / row['wall']:.2f}",
            f"{shares[row['side']]:.0%}",
        ]
        for row in result["rows"]
    ]
    peaks = [[f"{int(n):,}", f"{peak / 1e6:,.0f}"] for n, peak in result["peak_bytes"].items()]
    smaller, larger = result["peak_bytes"].values()
    working = shares["vlv bulk, between its shards"]
    duties = [
        verdict(
            "speed",
            f"at least {RATE:.0%} of the limit while it works",
            f"{working:.0%}",
            working >= RATE,
        ),
        verdict(
            "memory",
            f"of ten times the images: at most {GROWTH:g} times",
            f"{larger / smaller:.3f}",
            larger <= GROWTH * smaller,
        ),
    ]
    return "\n\n".join(
        [
            table(heads, speeds),
            table(["images of a job", "most memory of all its processes, MB"], peaks),
            table(["part", "duty", "measured", "kept"], duties),
            f"- {options['threads']} threads, batches of {options['batch_size']}, shards of "
            f"{options['shard_size']} images, one worker; torch {options['torch']}, transformers "
            f"{options['transformers']}",
        ]
    )
