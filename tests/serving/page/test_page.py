"""The web page in a real browser, on a real server with the mini model."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.serving.conftest import Server, data_url, scene, until

from vlv.inference.embeddings import load_embeddings

pytestmark = pytest.mark.browser
WAIT = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Root, as in containers, may not use Chromium's sandbox.
        chromium = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the page of a server; it may ask nobody else, and report no fault."""
    contexts, faults, asked = [], [], []

    def open_page(server: Server, **settings: object) -> Page:
        context = browser.new_context(reduced_motion="reduce", **settings)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append((request.url, server.url)))
        page.goto(server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults
    foreign = [u for u, home in asked if not u.startswith((home, "data:", "blob:"))]
    assert not foreign


def write(path: Path) -> Path:
    scene(3).save(path)
    return path


def test_a_picture_is_described_and_drawn(
    server: Server, visit: Callable[..., Page], tmp_path: Path
) -> None:
    page = visit(server)
    page.locator("#original input[type=file]").set_input_files(write(tmp_path / "a scene.png"))
    expected = server.post("/v1/vlv/caption", image=data_url(scene(3))).json()["caption"]
    expect(page.locator("#caption")).to_have_text(expected, timeout=WAIT)
    for picture in ("#from-embeddings img", "#from-caption img"):
        page.wait_for_selector(f"{picture}:visible")
    expect(page.locator("#history li")).to_have_count(1)
    with page.expect_download() as saved:
        page.click("#save-embeddings")
    saved.value.save_as(tmp_path / "z.safetensors")
    assert load_embeddings(tmp_path / "z.safetensors").z.shape == (1, 77, 128)
    page.reload()
    expect(page.locator("#history li")).to_have_count(1)


def test_two_scenes_are_composed(server: Server, visit: Callable[..., Page]) -> None:
    page = visit(server)
    page.click("#tab-compose")
    for side in ("#first", "#second"):
        page.click(f"{side} .scene")
        page.wait_for_selector(f"{side} img:visible")
    page.click(".compose")
    page.wait_for_selector("#composed img:visible")
    shares = [page.locator(f"{side} input[type=range]") for side in ("#first", "#second")]
    shares[0].fill("70")
    assert sum(int(share.input_value()) for share in shares) <= 77


def test_a_bad_file_is_told_in_words(
    server: Server, visit: Callable[..., Page], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    page = visit(server)
    page.locator("#original input[type=file]").set_input_files(tmp_path / "bad.png")
    expect(page.locator("#caption-panel .problem")).not_to_be_empty(timeout=WAIT)
    page.click("#original .scene")
    expect(page.locator("#caption-panel .problem")).to_be_empty(timeout=WAIT)


def test_a_full_queue_is_told_and_waited_for(
    serve: Callable[..., Server], visit: Callable[..., Page]
) -> None:
    server = serve("--queue-size", "1", "--timeout", "10")
    page = visit(server)
    page.wait_for_selector("body.ready")
    body = {"text": "a red cube", "num_inference_steps": 1000}
    with ThreadPoolExecutor(1) as threads:
        threads.submit(server.post, "/v1/vlv/reconstruct", **body)
        until(lambda: server.metric("vlv_slots_used") == 1)
        page.click("#original .scene")
        expect(page.locator("#caption-panel .status")).to_contain_text(
            "queue is full", timeout=WAIT
        )
        # The drawing ends at its deadline; then it is the page's turn.
        expect(page.locator("#caption")).not_to_be_empty(timeout=WAIT)


def test_a_key_is_asked_for(serve: Callable[..., Server], visit: Callable[..., Page]) -> None:
    server = serve("--api-key", "secret", key="secret")
    page = visit(server)
    page.wait_for_selector("#key-dialog[open]")
    page.fill("#key-dialog input", "wrong")
    page.click("#key-dialog button[value=use]")
    expect(page.locator("#key-refused")).not_to_be_empty(timeout=WAIT)
    page.fill("#key-dialog input", "secret")
    page.click("#key-dialog button[value=use]")
    expect(page.locator("#model")).to_have_text("vlv-mini", timeout=WAIT)


def test_by_keyboard_alone(server: Server, visit: Callable[..., Page]) -> None:
    page = visit(server)
    page.wait_for_selector("body.ready")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('scene')"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Enter")
    expect(page.locator("#caption")).not_to_be_empty(timeout=WAIT)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_anyones_way(
    server: Server, visit: Callable[..., Page], scheme: str
) -> None:
    page = visit(server, color_scheme=scheme, viewport={"width": 360, "height": 780})
    page.wait_for_selector("body.ready")
    page.click("#original .scene")
    page.wait_for_selector("#from-caption img:visible")
    for tab in ("caption", "compose"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        found = Axe().run(page).response["violations"]
        grave = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not grave, json.dumps(grave)


def test_the_page_comes_with_its_policy(server: Server) -> None:
    policy = server.client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
