"""Writes the generated parts of the reference: `python docs/reference.py`.

A page in docs/reference is written by hand, but for what is between a mark such as
`<!-- api: vlv.data.images.load_image -->` and the next `<!-- end -->`. `--check` writes nothing
and fails if a page is not current.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "site"))

import api
import commands
import settings

PAGES = Path(__file__).parent / "reference"
_GENERATED = re.compile(r"<!-- (\w+)(?:: (\S+))? -->\n.*?<!-- end -->", re.DOTALL)
_MAKERS: dict[str, Callable[..., str]] = {
    "api": api.section,
    "errors": api.errors,
    "settings": settings.section,
    "stages": settings.stages,
    "tables": settings.tables,
    "commands": commands.reference,
}


def current(page: str) -> str:
    """The text of a page with its generated parts made anew."""

    def part(mark: re.Match[str]) -> str:
        kind, path = mark[1], mark[2]
        made = _MAKERS[kind](*([path] if path else []))
        return f"{mark[0].splitlines()[0]}\n\n{made}\n\n<!-- end -->"

    return _GENERATED.sub(part, page)


def outdated() -> dict[Path, str]:
    """The pages that are not current, and what they should say."""
    found = {}
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        made = current(text)
        if made != text:
            found[page] = made
    return found


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check name those that are not current."""
    check = "--check" in arguments
    pages = outdated()
    for page, text in pages.items():
        print(page)
        if not check:
            page.write_text(text, encoding="utf-8")
    return int(check and bool(pages))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
