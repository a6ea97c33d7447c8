"""The Caption tab: a picture in, its caption and two pictures out."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from playwright.sync_api import Page, Route, expect
from tests.serving.conftest import Server, data_url, pixels, scene

from vlv.data.world_sets import world_samples
from vlv.inference.embeddings import load_embeddings

pytestmark = pytest.mark.browser

DRAWING = {"num_inference_steps": 25, "scheduler": "dpm++sde", "seed": 0}

# Notes for screen readers are no part of the caption.
_WITHOUT_HIDDEN_NOTES = """caption => {
    const copy = caption.cloneNode(true);
    copy.querySelectorAll(".visually-hidden").forEach(note => note.remove());
    return copy.textContent;
}"""


def choose(page: Page, path: Path) -> None:
    page.locator("#original input[type=file]").set_input_files(path)


def finished(page: Page) -> str:
    """Wait for the end of a run; returns the caption."""
    expect(page.locator("#history li").first).to_be_visible()
    expect(page.locator("#caption-panel .cancel")).to_be_hidden()
    return page.locator("#caption").evaluate(_WITHOUT_HIDDEN_NOTES)


def test_the_caption_streams_in_and_both_pictures_follow(
    page: Page, server: Server, picture: Path
) -> None:
    page.evaluate(
        """() => {
            const words = document.querySelector('#caption');
            window.seen = [];
            const note = () => seen.push([words.textContent, words.getAttribute('aria-busy')]);
            new MutationObserver(note).observe(words, { childList: true, attributes: true });
        }"""
    )
    choose(page, picture)
    caption = finished(page)

    answer = server.post("/v1/vlv/caption", image=data_url(scene(1))).json()
    assert caption == answer["caption"]
    growing = [text for text, busy in page.evaluate("seen") if busy == "true"]
    lengths = [len(text) for text in growing]
    assert len(set(lengths)) > 5 and lengths == sorted(lengths)
    assert page.locator("#caption").get_attribute("aria-busy") is None

    z = server.post("/v1/vlv/encode", image=data_url(scene(1))).json()
    for figure, source in (("#from-embeddings", {"z": z}), ("#from-caption", {"text": caption})):
        wanted = server.post("/v1/vlv/reconstruct", **source, **DRAWING).json()["image"]
        shown = page.locator(f"{figure} img").get_attribute("src") or ""
        assert abs(pixels(shown) - pixels(wanted)).max() <= 2, figure
    expect(page.locator("#out-of-distribution")).to_be_hidden()


def test_the_caption_ends_what_the_embeddings_began(
    page: Page, server: Server, picture: Path
) -> None:
    expect(page.locator("#from-embeddings figcaption")).to_have_text("From the embeddings")
    page.get_by_text("More settings").click()
    page.get_by_label("From the embeddings").select_option("yes")
    choose(page, picture)
    caption = finished(page)
    z = server.post("/v1/vlv/encode", image=data_url(scene(1))).json()
    drawn = []
    for body in ({"z": z, "caption": caption}, {"z": z}):
        drawn.append(server.post("/v1/vlv/reconstruct", **body, **DRAWING).json()["image"])
    shown = page.locator("#from-embeddings img").get_attribute("src") or ""
    assert abs(pixels(shown) - pixels(drawn[0])).max() <= 2
    assert abs(pixels(drawn[0]) - pixels(drawn[1])).max() > 2
    both = "From the embeddings and caption"
    expect(page.locator("#from-embeddings figcaption")).to_have_text(both)
    save = page.locator("#from-embeddings .save")
    assert (save.get_attribute("download") or "").endswith("-from-embeddings-and-caption.png")

    # The next picture is of the settings then, and an earlier one keeps its own.
    page.get_by_label("From the embeddings").select_option("")
    page.locator("#caption-panel .again").click()
    expect(page.locator("#history li")).to_have_count(2)
    expect(page.locator("#from-embeddings figcaption")).to_have_text("From the embeddings")
    page.locator("#history li button").last.click()
    expect(page.locator("#from-embeddings figcaption")).to_have_text(both)
    # A composition has no caption to end with.
    page.get_by_role("tab", name="Compose").click()
    expect(page.get_by_label("From the embeddings")).to_be_hidden()


def test_several_beams_answer_at_once(page: Page, server: Server, picture: Path) -> None:
    page.get_by_label("Beams").fill("3")
    choose(page, picture)
    answer = server.post("/v1/vlv/caption", image=data_url(scene(1)), num_beams=3).json()
    assert finished(page) == answer["caption"]


def test_a_short_limit_cuts_and_says_so(page: Page, picture: Path) -> None:
    page.get_by_label("Longest caption").fill("4")
    choose(page, picture)
    expect(page.locator("#cut")).to_be_visible()


def test_invalid_settings_are_reported_before_anything_is_sent(page: Page, picture: Path) -> None:
    page.get_by_text("More settings").click()
    page.get_by_label("Beams").fill("2")
    page.get_by_label("Temperature").fill("0.7")
    choose(page, picture)
    expect(page.get_by_label("Temperature")).to_be_focused()
    assert "Sampling needs one beam" in page.get_by_label("Temperature").evaluate(
        "field => field.validationMessage"
    )
    expect(page.locator("#caption")).to_be_empty()


def test_a_random_scene_hides_its_true_caption(page: Page, server: Server) -> None:
    with page.expect_response("**/v1/vlv/scene?seed=*") as answered:
        page.get_by_role("button", name="Random scene").click()
    scene_drawn = answered.value.json()
    finished(page)
    assert page.locator("#original img").get_attribute("src") == scene_drawn["image"]
    truth = page.get_by_text(scene_drawn["caption"], exact=True).last
    expect(page.locator("#truth p")).to_be_hidden()
    page.get_by_text("True caption of the scene").click()
    expect(truth).to_be_visible()


def test_pictures_are_dropped_and_pasted(page: Page, picture: Path) -> None:
    give = """([kind, url]) => {
        const bytes = Uint8Array.from(atob(url.split(',')[1]), (letter) => letter.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], `${kind}.png`, { type: 'image/png' }));
        document.querySelector('h1').dispatchEvent(kind === 'drop'
            ? new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true })
            : new ClipboardEvent('paste', { clipboardData: files, bubbles: true }));
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(give, [kind, data_url(scene(1))])
        expect(page.locator("#original img")).to_have_attribute("alt", f"Original: {kind}.png")
        expect(page.locator("#from-caption img")).to_be_visible()


def test_results_are_saved_and_copied(
    page: Page, server: Server, picture: Path, tmp_path: Path
) -> None:
    choose(page, picture)
    caption = finished(page)

    page.get_by_role("button", name="Copy caption").click()
    expect(page.get_by_text("Caption copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == caption

    # As over plain HTTP, where a page has no clipboard of its own.
    page.evaluate("""async () => {
        await navigator.clipboard.writeText('');
        delete Navigator.prototype.clipboard;
        document.querySelector('#caption-panel [role=status]').textContent = '';
        document.body.append(Object.assign(document.createElement('textarea'), { id: 'pasted' }));
    }""")
    page.get_by_role("button", name="Copy caption").click()
    expect(page.get_by_text("Caption copied.")).to_be_visible()
    expect(page.get_by_role("button", name="Copy caption")).to_be_focused()
    page.locator("#pasted").press("Control+v")
    expect(page.locator("#pasted")).to_have_value(caption)
    page.evaluate("document.execCommand = () => false")
    page.get_by_role("button", name="Copy caption").click()
    expect(page.get_by_text("Select the caption and copy it by hand.")).to_be_visible()

    saved = {}
    for name in ("Save caption", "Save embeddings", "Save picture from the caption"):
        with page.expect_download() as started:
            page.get_by_text(name, exact=True).click()
        file = started.value.suggested_filename
        saved[file] = tmp_path / f"saved-{file}"
        started.value.save_as(saved[file])
    assert set(saved) == {"scene.txt", "scene.safetensors", "scene-from-caption.png"}
    assert saved["scene.txt"].read_text("utf-8") == f"{caption}\n"

    saved_z = load_embeddings(saved["scene.safetensors"])
    sent = server.post("/v1/vlv/encode", image=data_url(scene(1))).json()
    z = np.frombuffer(base64.b64decode(sent["z"]), "<f4").reshape(1, *sent["shape"])
    assert (saved_z.file_names, saved_z.model) == (["scene.png"], "vlv-mini")
    np.testing.assert_allclose(saved_z.z.numpy(), z, atol=1e-4)


def test_earlier_results_come_back_until_they_are_cleared(page: Page, picture: Path) -> None:
    choose(page, picture)
    caption = finished(page)
    page.reload()
    page.get_by_role("button", name=caption).click()
    expect(page.locator("#caption")).to_contain_text(caption)
    for figure in ("#original", "#from-embeddings", "#from-caption"):
        expect(page.locator(f"{figure} img")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#history")).to_be_hidden()
    page.reload()
    page.wait_for_selector("body.ready")
    expect(page.locator("#history")).to_be_hidden()


def test_a_sentence_that_the_picture_contradicts_is_marked(page: Page, tmp_path: Path) -> None:
    (sample,) = world_samples(1, seed=13, split="test")
    (tmp_path / "scene.png").write_bytes(sample.image)
    floor = sample.meta["scene"]["floor"]
    wrong = str(sample.caption).replace(floor, "gray" if floor != "gray" else "brown")
    end = {"caption": wrong, "tokens": 9, "finish_reason": "stop", "out_of_distribution": False}
    # Only the caption is made up; the server itself verifies it.
    page.route(
        "**/v1/vlv/caption",
        lambda route: route.fulfill(
            body=f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n", content_type="text/event-stream"
        ),
    )
    choose(page, tmp_path / "scene.png")
    finished(page)
    expect(page.locator("#caption mark.unsupported")).to_have_count(1)
    expect(page.locator("#caption mark.unsupported")).to_contain_text("floor")
    expect(page.locator("#verdicts")).to_contain_text("About 5%")


def test_a_picture_unlike_the_training_pictures_is_reported(page: Page, tmp_path: Path) -> None:
    Image.fromarray(skimage.data.astronaut()).resize((128, 128)).save(tmp_path / "photo.png")
    choose(page, tmp_path / "photo.png")
    finished(page)
    expect(page.locator("#out-of-distribution")).to_be_visible()


def test_what_cannot_be_judged_has_a_mark_of_its_own(page: Page) -> None:
    """With the reason, visible and for screen readers; the verifier's answer is made up here."""
    reason = "the picture is unlike those of training"

    def answer(route: Route) -> None:
        caption = route.request.post_data_json["caption"]
        half = len(caption) // 2
        common = {"score": None, "probability": None, "better": None}
        sentences = [
            {"start": 0, "end": half, "supported": True, "verdict": "supported", "reason": None},
            {"start": half, "end": len(caption), "supported": None, "reason": reason}
            | {"verdict": "cannot_judge"},
        ]
        full = [{**common, "text": caption[one["start"] : one["end"]], **one} for one in sentences]
        route.fulfill(json={"sentences": full, "false_alarm_rate": 0.05})

    page.route("**/v1/vlv/verify", answer)
    page.get_by_role("button", name="Random scene").click()
    unjudged = page.locator("#caption mark.cannot-judge")
    expect(unjudged).to_have_count(1)
    expect(unjudged).to_have_attribute("title", reason)
    expect(unjudged).to_contain_text(f"(cannot judge: {reason})")
    expect(page.locator("#caption mark.unsupported")).to_have_count(0)
    expect(page.locator("#verdicts")).to_contain_text("every sentence that could be checked")
    expect(page.locator("#verdicts")).to_contain_text("The picture is unlike those of training.")


def test_the_page_says_what_the_model_knows_before_a_picture_is_chosen(page: Page) -> None:
    expect(page.locator("#knows")).to_have_text(
        "It knows rendered scenes of simple shapes only. It cannot caption photographs."
    )
    expect(page.locator("#knows")).to_be_visible()
