"""The documentation site: built without a warning, readable, and asking nobody but its own host."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html import unescape
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from vlv.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
# Where a page lets its reader go; everything else that it names is fetched by itself.
LINKS = {("a", "href"), ("link", "canonical")}
PAGES = ["", "architecture/", "captioning/", "reference/vlv/", "reference/cli/", "reliability/"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; building fails on a warning."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


class Fetched(HTMLParser):
    """Collects the addresses that a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data") and (tag, name) not in LINKS and value:
                self.addresses.append(value)


def is_foreign(address: str) -> bool:
    return bool(re.match(r"(?:[a-z]+:)?//", address, re.IGNORECASE))


def test_no_page_fetches_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        found = Fetched()
        found.feed(page.read_text("utf-8"))
        assert found.addresses
        assert [address for address in found.addresses if is_foreign(address)] == [], page
    for sheet in site.rglob("*.css"):
        named = re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", sheet.read_text())
        assert [one for one in named if is_foreign("".join(one))] == [], sheet


def test_everything_that_is_published_can_be_reached(site: Path) -> None:
    """Also what is in no menu: the lab log and the figures as JSON."""
    for file in [
        "lab_log/index.html",
        "eval_mini.json",
        "full_size.json",
        "benchmarks/caption.json",
    ]:
        assert (site / file).is_file()
    assert not list(site.rglob("*.py"))


def text_of(page: Path) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.read_text("utf-8"))).split())


def test_the_reference_shows_signatures_types_and_arguments(site: Path) -> None:
    page = (site / "reference" / "vlv" / "index.html").read_text("utf-8")
    for name in ("from_pretrained", "caption", "encode", "reconstruct", "compose"):
        assert f'id="vlv{name}"' in page
    section = page.split('id="vlvreconstruct"')[1].split("<h4")[0]
    signature = unescape(re.sub(r"<[^>]+>", "", section))
    assert "guidance_scale: float = 2.0" in signature
    assert "scheduler: str | None = None" in signature


def test_arguments_that_are_explained_keep_their_meaning(site: Path) -> None:
    text = text_of(site / "reference" / "data" / "index.html")
    assert "timeout seconds of processor time to decode an image" in text
    assert "ImageError the image was refused" in text


def test_every_command_is_in_the_reference_with_its_flags(site: Path) -> None:
    text = text_of(site / "reference" / "cli" / "index.html")
    assert [name for name in COMMANDS if f"vlv {name} " not in text] == []
    assert re.search(r"--port int Port to listen on\. +default: 8000 1<=x<=65535", text)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing is reported."""


@pytest.mark.browser
def test_pages_fit_narrow_screens_and_ask_nobody_else(browser: Browser, address: str) -> None:
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.set_default_timeout(60_000)
    page.on("request", lambda request: asked.append(request.url))
    for name in PAGES:
        page.goto(address + name)
        page.wait_for_load_state("networkidle")
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider == 0, name
    page.close()
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
