"""A real browser. In every test, no page may contact another origin or fail in its own code."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.serving.conftest import Server, scene

SECONDS = 60


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the page of a server in a fresh profile; options are those of playwright's contexts."""
    contexts, complaints = [], []

    def run(server: Server, *, wait: bool = True, **options: Any) -> Page:
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options)
        context.set_default_timeout(SECONDS * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: check_origin(asked.url, server.url))
        page.on("console", lambda said: check_console(said.type, said.text))
        page.goto(f"{server.url}/")
        if wait:
            page.wait_for_selector("body.ready")
        return page

    def check_origin(asked: str, own: str) -> None:
        if not asked.startswith((f"{own}/", "data:", f"blob:{own}/")):
            complaints.append(f"asked elsewhere: {asked}")

    def check_console(kind: str, text: str) -> None:
        # Chromium itself reports every answer that is no success.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            complaints.append(text)

    yield run
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(open_page: Callable[..., Page], server: Server) -> Page:
    """The page of the shared server."""
    return open_page(server)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A scene in a file."""
    path = tmp_path / "scene.png"
    scene(1).save(path)
    return path
