"""Put the tables of the recorded runs into docs/benchmarks.md.

    python benchmarks/tables.py

A run is recorded with `--json docs/benchmarks/NAME.json`; its table stands between the page's marks
`<!-- NAME -->` and `<!-- end -->`, and nothing does where no run is recorded.
"""

import json
import re
from pathlib import Path

from measuring import markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"
_TABLE = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str) -> str:
    """The page with the table of every recorded run."""
    return _TABLE.sub(_table, page)


def _table(found: re.Match[str]) -> str:
    file = DOCS / "benchmarks" / f"{found['name']}.json"
    table = ""
    if file.exists():
        table = f"\n{markdown(json.loads(file.read_text(encoding='utf-8')))}\n\n"
    return f"<!-- {found['name']} -->\n{table}<!-- end -->"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
