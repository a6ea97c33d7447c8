"""Put the tables of the recorded runs into the pages of `PAGES`.

    python benchmarks/tables.py

A run is recorded with `--json docs/benchmarks/NAME.json`; its table stands between a page's marks
`<!-- NAME -->` and `<!-- end -->`, and nothing does where no run is recorded.
"""

import json
import re
from pathlib import Path

import bulk_tables
import measuring
import paper_scale
import serve_tables
import speedrun_tables

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = tuple(
    DOCS / f"{name}.md" for name in ("benchmarks", "bulk", "performance", "service", "speedrun")
)
# Runs that are no comparison of two sides.
WRITERS = {"bulk": bulk_tables.markdown, "serve": serve_tables.markdown}
WRITERS["speedrun"] = speedrun_tables.markdown
WRITERS |= {f"paper-scale-smoke-stage{number}": paper_scale.markdown for number in (1, 2)}
_TABLE = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str) -> str:
    """The page with the table of every recorded run."""
    return _TABLE.sub(_table, page)


def _table(found: re.Match[str]) -> str:
    name = found["name"]
    file = DOCS / "benchmarks" / f"{name}.json"
    table = ""
    if file.exists():
        write = WRITERS.get(name, measuring.markdown)
        table = f"\n{write(json.loads(file.read_text(encoding='utf-8')))}\n\n"
    return f"<!-- {name} -->\n{table}<!-- end -->"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
