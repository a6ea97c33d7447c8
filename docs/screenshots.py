"""The pictures of pages in docs/images, from a running `vlv serve` with the mini model, and from a
report that `vlv verify` wrote.

python docs/screenshots.py http://127.0.0.1:8000 report.html
"""

import base64
import os
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
# Of the world's split `test`, the first alone on the Caption tab. The pair is one of those that
# compose; one in six does.
PAIR = (83, 84)
# The caption of the last one by one beam is wrong, and marked.
FOLDER = (0, 1, 39)
# A drawing on a busy machine takes long.
MILLISECONDS = 300_000


def main(server: str, report: Path) -> None:
    # Chromium's sandbox does not start as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        captioned(opened(browser, server, 1120, "light"), "web-caption.png")
        captioned(opened(browser, server, 360, "dark"), "web-narrow.png")
        composed(opened(browser, server, 1120, "dark"), "web-compose.png")
        described(opened(browser, server, 1120, "light"), server, "web-folder.png")
        page = browser.new_page(viewport={"width": 1024, "height": 300})
        page.goto(report.resolve().as_uri())
        page.screenshot(path=IMAGES / "verify.png", full_page=True)
        browser.close()


def opened(browser: Browser, server: str, width: int, scheme: str) -> Page:
    """The page in a fresh profile, whose random scenes are those of `PAIR`."""
    page = browser.new_page(
        viewport={"width": width, "height": 700},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page.set_default_timeout(MILLISECONDS)
    seeds = iter(PAIR)
    page.route(
        "**/v1/vlv/scene?seed=*",
        lambda route: route.continue_(url=f"{server}/v1/vlv/scene?seed={next(seeds)}"),
    )
    page.goto(f"{server}/")
    page.wait_for_selector("body.ready")
    return page


def captioned(page: Page, name: str) -> None:
    page.get_by_role("button", name="Random scene").click()
    page.wait_for_selector("#history li")
    page.get_by_text("True caption of the scene").click()
    shoot(page, name)


def described(page: Page, server: str, name: str) -> None:
    """Scenes and a file that is no picture, as a folder of pictures."""
    files = [{"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"}]
    for seed in FOLDER:
        scene = page.request.get(f"{server}/v1/vlv/scene?seed={seed}").json()
        data = base64.b64decode(scene["image"].partition(",")[2])
        files.append({"name": f"scene-{seed}.png", "mimeType": "image/png", "buffer": data})
    page.locator("#many-input").set_input_files(files)
    page.wait_for_selector("#folder .cancel", state="hidden")
    shoot(page, name)


def composed(page: Page, name: str) -> None:
    page.get_by_role("tab", name="Compose").click()
    for side in ("first", "second"):
        page.click(f"#{side} .scene")
        page.wait_for_selector(f"#{side} img:visible")
    page.fill("#first input[type=range]", "70")
    page.select_option(".order select", "trailing")
    page.click(".compose")
    page.wait_for_selector("#history li")
    shoot(page, name)


def shoot(page: Page, name: str) -> None:
    page.locator("#main").evaluate("main => main.focus()")
    page.screenshot(path=IMAGES / name, full_page=True)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), Path(sys.argv[2]))
