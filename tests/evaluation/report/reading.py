"""Reads the pages of a report strictly."""

import re
from html.parser import HTMLParser
from pathlib import Path

from vlv.evaluation.report.document import slug

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.targets += [values[key] or "" for key in ("href", "src") if key in values]
        assert tag != "script"

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def check_pages(folder: Path) -> tuple[str, str]:
    """Both pages as text, in which every link leads to a file or heading that is there."""
    html, markdown = ((folder / f"report.{kind}").read_text("utf-8") for kind in ("html", "md"))
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids)
    slugs = [slug(title) for title in re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)]
    targets = re.findall(r"\]\(([^)]*)\)", markdown)
    assert targets
    for target, anchors in [(one, page.ids) for one in page.targets] + [
        (one, slugs) for one in targets
    ]:
        if target.startswith("#"):
            assert target[1:] in anchors
        else:
            assert target.startswith("data:image/") or (folder / target).is_file(), target
    return " ".join(" ".join(page.words).split()), markdown
