"""The reference pages in docs/reference are current."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_pages_are_what_the_code_says() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "docs" / "reference.py", "--check"], capture_output=True, text=True
    )
    assert ran.returncode == 0, f"run python docs/reference.py: {ran.stdout}{ran.stderr}"


def test_the_pages_are_plain_markdown() -> None:
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    assert len(pages) > 5
    for page in pages:
        assert "\n::: " not in page.read_text(encoding="utf-8")
