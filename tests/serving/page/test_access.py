"""Accessibility (keyboard, screen reader, narrow and dark screens), and no foreign code."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from tests.serving.conftest import Server

pytestmark = pytest.mark.browser

FOCUSED = """() => {
    const at = document.activeElement;
    const visible = at === document.body || getComputedStyle(at).outlineStyle !== 'none';
    return [(at.getAttribute('aria-label') ?? at.textContent).trim(), visible];
}"""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until this has the focus, which has to be seen at every stop."""
    for _ in range(40):
        page.keyboard.press("Tab")
        label, visible = page.evaluate(FOCUSED)
        assert visible, label
        if label == name:
            return
    raise AssertionError(f"Tab never came to {name}")


def test_everything_works_by_keyboard(page: Page) -> None:
    tab_to(page, "Random scene")
    page.keyboard.press("Enter")
    expect(page.locator("#from-caption img")).to_be_visible()
    expect(page.locator("#history li")).to_have_count(1)
    expect(page.locator("#caption-panel .cancel")).to_be_hidden()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)[0] == "Copy caption"  # the focus stayed where it was
    page.reload()
    page.wait_for_selector("body.ready")
    tab_to(page, "Caption")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(FOCUSED) == ["Compose", True]
    for side in ("first", "second"):
        tab_to(page, f"Random scene as the {side} picture")
        page.keyboard.press("Enter")
        expect(page.locator(f"#{side} img")).to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#sum")).to_have_text("69 + 6 of at most 77 embeddings")
    tab_to(page, "Compose")
    page.keyboard.press("Enter")
    expect(page.locator("#composed img")).to_be_visible()
    assert page.evaluate(FOCUSED)[0] == "Compose"


def test_arrow_keys_pass_over_a_tab_that_is_hidden(page: Page, server: Server) -> None:
    info = server.client.get("/v1/vlv/info").json() | {"can_draw": False, "can_verify": False}
    page.route("**/v1/vlv/info", lambda route: route.fulfill(json=info))
    page.reload()
    page.wait_for_selector("body.ready")
    expect(page.get_by_role("tab", name="Compose")).to_be_hidden()
    for key in ("ArrowRight", "ArrowLeft"):
        page.get_by_role("tab", name="Caption").press(key)
        expect(page.locator("#caption-panel")).to_be_visible()
        expect(page.get_by_role("tab", name="Caption")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_nothing_overflows(
    open_page: Callable[..., Page], server: Server, scheme: str
) -> None:
    page = open_page(
        server,
        color_scheme=scheme,
        reduced_motion="reduce",
        viewport={"width": 360, "height": 740},
    )
    check(page, "empty")
    page.get_by_role("button", name="Random scene").click()
    expect(page.locator("#from-caption img")).to_be_visible()
    expect(page.locator("#history li")).to_have_count(1)
    page.get_by_text("True caption of the scene").click()
    page.get_by_text("More settings").click()
    check(page, "captioned")
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.locator("#many-input").set_input_files([broken, broken])
    expect(page.locator("#folder .note").nth(1)).not_to_be_empty()
    check(page, "many")
    page.get_by_role("tab", name="Compose").click()
    expect(page.locator("#folder")).to_be_hidden()
    check(page, "compose")
    page.context.set_offline(True)
    page.get_by_role("button", name="Random scene as the first picture").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    check(page, "failed")
    page.locator("#key-dialog").evaluate("dialog => dialog.showModal()")
    check(page, "key")


def check(page: Page, state: str) -> None:
    width, shown = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width <= shown, state
    violations = Axe().run(page).response["violations"]
    grave = [one for one in violations if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in grave] == [], state


def test_motion_stops_where_it_is_not_wanted(
    open_page: Callable[..., Page], server: Server
) -> None:
    page = open_page(server, reduced_motion="reduce")
    page.locator("#from-caption").evaluate("figure => figure.setAttribute('aria-busy', 'true')")
    animated = "figure => getComputedStyle(figure.querySelector('.frame')).animationName"
    assert page.locator("#from-caption").evaluate(animated) == "none"


def test_foreign_code_does_not_run(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    try:
        answer = page.goto(f"{server.url}/")
        assert answer is not None
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        page.evaluate(
            """() => {
                const script = document.createElement('script');
                script.textContent = 'window.ran = true';
                document.body.append(script);
            }"""
        )
        assert page.evaluate("window.ran") is None
    finally:
        page.close()
