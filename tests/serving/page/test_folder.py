"""Many pictures at once: a caption for each, edited, and saved as a zip file."""

import io
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.serving.conftest import Server, data_url, scene

pytestmark = pytest.mark.browser


def test_many_pictures_become_a_zip_of_edited_captions(
    page: Page, server: Server, tmp_path: Path
) -> None:
    paths = []
    for folder, seed in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "scene ä.png")
        scene(seed).save(paths[-1])
    paths.append(tmp_path / "broken.png")
    paths[-1].write_bytes(b"no picture")
    page.locator("#many-input").set_input_files(paths)
    status = page.locator("#folder [role=status]")
    expect(page.locator("#folder .note").nth(2)).to_contain_text("not a picture that can be read")
    expect(page.locator("#folder .cancel")).to_be_hidden()
    expect(status).to_have_text("")
    texts = page.locator("#folder textarea")
    wanted = [server.post("/v1/vlv/caption", image=data_url(scene(at))).json() for at in (1, 2)]
    for at, answer in enumerate(wanted):
        expect(texts.nth(at)).to_have_value(answer["caption"])
        expect(page.locator("#folder .note").nth(at)).to_have_text(re.compile("[Tt]he picture"))
    expect(texts.nth(2)).to_be_disabled()
    texts.nth(1).fill("  A cube, by hand. ")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save all captions").click()
    assert download.value.suggested_filename == "captions.zip"
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as saved:
        assert saved.testzip() is None
        assert saved.namelist() == ["scene ä.txt", "scene ä-2.txt"]
        read = [saved.read(name).decode() for name in saved.namelist()]
    assert read == [f"{wanted[0]['caption']}\n", "A cube, by hand.\n"]


@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_a_folder_gives_a_zip_that_unpacks_beside_its_pictures(
    page: Page, tmp_path: Path, how: str
) -> None:
    folder = tmp_path / "set"
    for name in ("2.png", "10.png", "sub.d/1.png", ".hidden.png", "2.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        scene(1).save(folder / name, "PNG")
    if how == "chosen":
        page.locator("#folder-input").set_input_files(folder)
    else:
        data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
        chromium = page.context.new_cdp_session(page)
        for kind in ("dragEnter", "dragOver", "drop"):
            chromium.send(
                "Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data}
            )
    expect(page.locator("#folder .name")).to_have_text(["2.png", "10.png", "sub.d/1.png"])
    expect(page.locator("#folder .cancel")).to_be_hidden()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save all captions").click()
    with zipfile.ZipFile(download.value.path()) as saved:
        assert saved.namelist() == ["2.txt", "10.txt", "sub.d/1.txt"]


def test_a_folder_without_pictures_says_so(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    page.locator("#folder-input").set_input_files(tmp_path)
    expect(page.locator("#folder .error")).to_contain_text("no pictures in this folder")


def test_unsupported_sentences_are_marked_until_the_caption_is_edited(
    page: Page, server: Server, tmp_path: Path
) -> None:
    caption = server.post("/v1/vlv/caption", image=data_url(scene(1))).json()["caption"]
    false = "There is a purple torus on the left."
    answer = {"caption": f"{caption} {false}", "finish_reason": "stop"}
    page.route("**/v1/vlv/caption", lambda route: route.fulfill(json=answer))
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        scene(1).save(path)
    page.locator("#many-input").set_input_files(paths)
    first = page.locator("#folder li").first
    expect(first.locator("mark").last).to_contain_text(false)
    expect(first.locator(".marks")).to_be_visible()
    first.locator("textarea").fill("By hand.")
    expect(first.locator(".marks")).to_be_hidden()
