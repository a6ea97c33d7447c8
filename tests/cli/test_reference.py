"""The reference pages in docs/reference are current."""

import sys
from pathlib import Path

from tests import launcher

ROOT = Path(__file__).resolve().parents[2]


def test_the_pages_are_what_the_code_says() -> None:
    script = [sys.executable, "-c", launcher.SCRIPT, ROOT / "docs" / "reference.py"]
    ran = launcher.run([*script, "--check"], capture_output=True, text=True)
    assert ran.returncode == 0, f"run python docs/reference.py: {ran.stdout}{ran.stderr}"


def test_the_pages_are_plain_markdown() -> None:
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    assert len(pages) > 5
    for page in pages:
        assert "\n::: " not in page.read_text(encoding="utf-8")
