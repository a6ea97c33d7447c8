"""What the service withstands: more requests than it can answer, clients that leave, and kills.

    python benchmarks/serve.py [PART ...] [--seconds 60] [--threads 2] [--quick] [--json FILE]

Starts `vlv serve` with the embedded model on the loopback and sends it requests from this process:
captions by one beam of scenes of its world. PART is any of

    capacity  captions a second, one request at a time and --in-flight at once, in turn in one run
    load      as many as come at 0.5, 1 and 4 times the capacity, whether answers come or not
    aborts    captions that stream, and drawings, whose clients leave at random moments
    soak      good, bad and aborted requests mixed: memory, open files, counters
    kill      the process with the model killed under load

and all of them by default. --quick is for a look at whether it all works: its sizes are too small
for figures.
"""

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from recording import recorded
from serve_faults import aborts, kill
from serve_load import capacity, load
from serve_soak import soak
from serve_tables import markdown
from served import served

QUICK = {"seconds": 1.0, "in_flight": 8, "aborted": 8, "kills": 1, "soak_seconds": 2.0}
QUICK |= {"rounds": 1, "warm_up": 0.5, "queue_size": 8}

Figures = dict[str, Any]

PARTS = {"capacity": capacity, "load": load, "aborts": aborts, "soak": soak, "kill": kill}


def main() -> None:
    options = parsed()
    figures = asyncio.run(measured(options))
    result = {"options": recorded(options), "parts": figures}
    result["options"]["processors"] = os.cpu_count()
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(result))


async def measured(options: argparse.Namespace) -> Figures:
    """The figures of each part; one may use those before it."""
    figures: Figures = {}
    queue = ("--queue-size", str(options.queue_size))
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder) / "log", options.threads, *queue) as server:
            for name in PARTS:
                if name in options.parts:
                    figures[name] = await PARTS[name](server, options, figures)
                    print(f"{name}: {json.dumps(figures[name])}", flush=True)
    return figures


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=60, help="of each side and each load")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both sides of capacity")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--queue-size", type=int, default=64, help="as of vlv serve")
    parser.add_argument("--aborted", type=int, default=200, help="requests whose clients leave")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--soak-seconds", type=float, default=120)
    parser.add_argument("--warm-up", type=float, default=60, help="seconds before those of soak")
    parser.add_argument("--rate", type=float, help="captions a second, where capacity is not run")
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    options.parts = options.parts or list(PARTS)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    if options.quick:
        vars(options).update(QUICK)
    return options


if __name__ == "__main__":
    main()
