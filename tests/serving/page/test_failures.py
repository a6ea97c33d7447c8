"""Failures: plain messages, and how a user recovers."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from tests.serving.conftest import Server
from tests.shared import until

from vlv.data.images import REASONS
from vlv.serving.app import PAGE
from vlv.serving.errors import ApiError

pytestmark = pytest.mark.browser

KEY = "open sesame"
NOTE_WHAT_IS_SAID = """
    const status = document.querySelector('#caption-panel [role=status]');
    window.said = [];
    new MutationObserver(() => said.push(status.innerText)).observe(status, { childList: true });
"""


def error(code: str) -> dict[str, Any]:
    return ApiError(500, code, "The API says what to do.").body()


def fulfilled(sent: dict[str, Any], route: Route) -> None:
    route.fulfill(**sent)


def choose(page: Page, path: Path) -> None:
    page.locator("#original input[type=file]").set_input_files(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.txt", b"These are notes.", "is not a picture that can be read"),
        ("empty.png", b"", "This file is empty"),
        ("half.png", None, "is cut off"),
        ("huge.png", b"\x89PNG" + bytes(16_000_000), "is too large"),
    ],
)
def test_a_bad_file_is_named_and_the_next_one_works(
    page: Page, picture: Path, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    bad = tmp_path / name
    bad.write_bytes(picture.read_bytes()[:1000] if content is None else content)
    choose(page, bad)
    expect(page.get_by_role("alert")).to_contain_text(words)
    choose(page, picture)
    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.locator("#caption")).not_to_be_empty()


def test_a_request_can_be_repeated_after_a_lost_connection(page: Page, picture: Path) -> None:
    page.context.set_offline(True)
    choose(page, picture)
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#from-caption img")).to_be_visible()


def test_an_error_in_a_stream_or_of_a_proxy_says_what_to_do(page: Page, picture: Path) -> None:
    step = {"step": 1, "steps": 2}
    answers = [
        ([step, error("deadline_exceeded")], "Try fewer steps"),
        ([step, error("too_many_steps")], "The API says what to do."),
        ([step], "ended before the answer was complete"),
        (502, "wait a moment, then try again"),
    ]
    page.get_by_role("spinbutton", name="Steps").fill("1")
    for answer, words in answers:
        if isinstance(answer, int):
            sent: dict[str, Any] = {"status": answer, "body": "<h1>A proxy</h1>"}
        else:
            sent = {"body": "".join(f"data: {json.dumps(one)}\n" for one in answer)}
        page.unroute_all()
        page.route("**/v1/vlv/reconstruct", partial(fulfilled, sent))
        choose(page, picture)
        expect(page.get_by_role("alert")).to_contain_text(words)
    page.unroute_all()
    limited = {"status": 429, "headers": {"Retry-After": "1"}}
    limited["body"] = json.dumps(error("rate_limit_exceeded"))
    page.route("**/v1/vlv/caption", partial(fulfilled, limited), times=1)
    page.evaluate(f"() => {{ {NOTE_WHAT_IS_SAID} }}")  # a second is soon over
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#from-caption img")).to_be_visible()
    said = page.evaluate("window.said")
    assert any("This key has sent too many requests in a minute." in one for one in said), said
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_result_stays_that_the_browser_has_no_room_for(page: Page, picture: Path) -> None:
    full = "throw new DOMException('full', 'QuotaExceededError')"
    page.evaluate(f"() => {{ IDBObjectStore.prototype.add = () => {{ {full}; }}; }}")
    page.get_by_role("spinbutton", name="Steps").fill("1")
    choose(page, picture)
    expect(page.locator("#from-caption img")).to_be_visible()
    expect(page.locator("#caption-panel .cancel")).to_be_hidden()
    expect(page.get_by_role("alert")).to_be_empty()


def test_every_refusal_of_an_image_has_a_sentence() -> None:
    sentences = (PAGE / "messages.js").read_text("utf-8")
    of_addresses = {"unreadable", "bad-url", "refused-address", "not-fetched"}
    keys = [f'"{one}"' if "-" in one else one for one in REASONS if one not in of_addresses]
    assert [one for one in keys if f"\n  {one}: " not in sentences] == []


def test_cancelling_ends_the_work_of_the_server(page: Page, server: Server, picture: Path) -> None:
    page.get_by_role("spinbutton", name="Steps").fill("1000")
    choose(page, picture)
    expect(page.get_by_text("Drawing…")).to_be_visible()
    # Escape is for what is seen.
    page.get_by_role("tab", name="Compose").click()
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Caption").click()
    page.locator("#key-dialog").evaluate("dialog => dialog.showModal()")
    page.keyboard.press("Escape")
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.get_by_text("Drawing…")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Cancelled.")).to_be_visible()
    expect(page.locator("#from-caption .placeholder")).to_have_text("Not drawn")
    expect(page.locator("#caption")).not_to_be_empty()
    until(lambda: server.metric("vlv_slots_used") == 0)


def test_the_page_asks_for_the_key_and_waits_for_a_full_queue(
    serve: Callable[..., Server], open_page: Callable[..., Page], picture: Path
) -> None:
    server = serve("--queue-size", "1", "--api-key", KEY, key=KEY)
    page = open_page(server, wait=False)
    dialog = page.get_by_role("dialog", name="This server needs a key")
    for attempt, refused in (("wrong", True), (KEY, False)):
        dialog.get_by_label("API key").fill(attempt)
        page.keyboard.press("Enter")
        expect(dialog.get_by_text("did not accept this key")).to_be_visible(visible=refused)
    expect(dialog).to_be_hidden()
    page.reload()
    page.wait_for_selector("body.ready")
    expect(dialog).to_be_hidden()

    # Without a key, many pictures ask for it once.
    page.evaluate("sessionStorage.clear()")
    page.locator("#many-input").set_input_files([picture] * 9)
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.locator("#folder")).to_contain_text("The server needs an API key.")
    expect(dialog).to_be_hidden()
    page.evaluate(f"sessionStorage.setItem('vlv-key', '{KEY}')")

    with occupied(server):
        page.get_by_role("button", name="Random scene").click()
        expect(page.get_by_text("The server's queue is full.")).to_be_visible()
        expect(page.locator(".countdown").first).to_have_text("Trying again in 1 s.")
    expect(page.locator("#from-embeddings img")).to_be_visible()
    expect(page.locator("#from-caption img")).to_be_visible()


@contextmanager
def occupied(server: Server) -> Iterator[None]:
    """The server's one slot is taken, until the client hangs up."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    body = json.dumps({"text": "a red cube", "num_inference_steps": 1000})
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/vlv/reconstruct", body, headers)
    until(lambda: server.metric("vlv_slots_used") == 1)
    yield
    connection.close()
