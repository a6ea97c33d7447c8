"""The page on which people rate captions, in a real browser, and what comes back from it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect
from tests.evaluation.real.judge_server import by_length, judging
from tests.evaluation.real.photographs import CAPTIONS, save_photographs

IMAGES = len(CAPTIONS)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    save_photographs(folder / "set", captions=False)
    for name, words in (("ours", "</script><b>six"), ("gpt4o", "two words")):
        lines = [{"file_name": f"{image}.png", "text": f"{words} {image}"} for image in CAPTIONS]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def command(folder: Path, *more: object) -> list[object]:
    named = [("--captions", f"{name}={folder / f'{name}.jsonl'}") for name in ("ours", "gpt4o")]
    return ["eval", "arena", folder / "set", *(word for pair in named for word in pair), *more]


@pytest.fixture
def rate_page(vlv: Callable, photographs: Path, tmp_path: Path) -> Path:
    ran = vlv(*command(photographs, "--human", tmp_path / "rate.html"))
    assert ran.code == 0, ran.err
    assert f"{IMAGES} images, 2 captions each" in ran.out
    return tmp_path / "rate.html"


@pytest.fixture
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile in which no page asks for anything or fails."""
    complaints: list[str] = []
    context = browser.new_context(accept_downloads=True, viewport={"width": 1200, "height": 800})
    context.set_default_timeout(60_000)

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text))
        page.on(
            "request",
            lambda asked: (
                asked.url.startswith(("file:", "data:", "blob:")) or complaints.append(asked.url)
            ),
        )

    context.on("page", watch)
    yield context
    context.close()
    assert complaints == []


def opened(context: BrowserContext, path: Path) -> Page:
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("body.ready")
    return page


def saved(page: Page, path: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save ratings").click()
    download.value.save_as(path)
    return path


def test_the_page_names_no_captioner_and_no_file(rate_page: Path) -> None:
    text = rate_page.read_text()
    assert "gpt4o" not in text and "ours" not in text and ".png" not in text
    assert "http://" not in text and "https://" not in text


@pytest.mark.browser
def test_people_rate_by_keyboard_and_ratings_outlive_the_page(
    vlv: Callable, photographs: Path, rate_page: Path, profile: BrowserContext, tmp_path: Path
) -> None:
    page = opened(profile, rate_page)
    status = page.get_by_role("status")
    expect(status).to_have_text(f"0 of {2 * IMAGES} captions rated")
    page.keyboard.press("4")
    expect(page.locator("article").nth(1)).to_have_class("now")
    page.keyboard.press("5")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("6")  # in place of the 4
    page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_have_text(f"Picture 2 of {IMAGES}")
    expect(status).to_have_text(f"2 of {2 * IMAGES} captions rated")
    page.close()
    page = opened(profile, rate_page)
    expect(page.locator("#place")).to_have_text(f"Picture 2 of {IMAGES}")
    page.keyboard.press("ArrowLeft")
    pressed = page.locator("button[aria-pressed=true]")
    expect(pressed).to_have_text(["6", "5"])
    page.get_by_role("button", name="Save ratings").click()
    expect(page.get_by_role("alert")).to_contain_text("Write your name first")
    page.get_by_label("Your name").fill("Ann 1")  # digits in a name rate nothing
    first = saved(page, tmp_path / "ann.json")
    record = json.loads(first.read_text())
    assert record["rater"] == "Ann 1" and sorted(record["scores"].values()) == [5, 6]
    ran = vlv(*command(photographs, "--collect", first, "--json", "--output", tmp_path / "out"))
    assert ran.code == 0, ran.err
    scores = [row for row in json.loads(ran.out)["rows"] if row["labels"]["part"] == "scores"]
    assert sorted(row["figures"]["score"]["value"] for row in scores) == [5, 6]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits_small_screens(
    rate_page: Path, browser: Browser, scheme: str
) -> None:
    for width in (1200, 360):
        size = {"width": width, "height": 700}
        page = browser.new_page(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
        page.goto(rate_page.as_uri())
        page.wait_for_selector("body.ready")
        page.keyboard.press("3")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()


def ratings(page: Path, rater: str, score: Callable[[str], int], path: Path) -> Path:
    """What the page would save, for all captions."""
    text = page.read_text().split('id="study">')[1].split("</script>")[0]
    study = json.loads(text)
    scores = {
        caption["id"]: score(caption["text"])
        for image in study["images"]
        for caption in image["captions"]
    }
    path.write_text(json.dumps({"study": study["id"], "rater": rater, "scores": scores}))
    return path


def test_ratings_of_people_and_of_a_judge_are_compared(
    vlv: Callable, photographs: Path, rate_page: Path, tmp_path: Path
) -> None:
    strict = ratings(rate_page, "Bo", lambda text: 2 if "six" in text else 3, tmp_path / "bo.json")
    kind = ratings(rate_page, "Cy", lambda text: 4 if "six" in text else 5, tmp_path / "cy.json")
    more = ("--collect", strict, "--collect", kind, "--json", "--output", tmp_path / "out")
    with judging(by_length) as judge:
        asked = ("--base-url", judge.url, "--model", "judge")
        ran = vlv(*command(photographs, *more, *asked))
        assert ran.code == 0, ran.err
        assert sum(judge.paid.values()) == IMAGES
    rows = json.loads(ran.out)["rows"]
    people = {
        row["labels"]["captions"]: row
        for row in rows
        if row["labels"].get("rater") == "people" and row["labels"]["part"] == "scores"
    }
    assert people["ours"]["figures"]["score"]["value"] == 3
    assert people["gpt4o"]["figures"]["score"]["value"] == 4
    assert people["ours"]["count"] == 2 * IMAGES
    groups = {row["labels"]["raters"] for row in rows if row["labels"]["part"] == "agreement"}
    assert groups == {"judge, Bo", "judge, Cy", "Bo, Cy", "judge, Bo, Cy"}


def test_a_difference_is_over_the_images_where_both_have_a_score(
    vlv: Callable, photographs: Path, rate_page: Path, tmp_path: Path
) -> None:
    """Ann left out the poor captions of one captioner, and Bo all captions of the other one."""
    easy = list(CAPTIONS)[:3]

    def of_ann(text: str) -> int:
        if not text.endswith(tuple(easy)):
            return 1 if "six" in text else -1
        return 6 if "six" in text else 5

    ann = ratings(rate_page, "Ann", of_ann, tmp_path / "ann.json")
    bo = ratings(rate_page, "Bo", lambda text: 0 if "six" in text else -1, tmp_path / "bo.json")
    for file in (ann, bo):
        record = json.loads(file.read_text())
        record["scores"] = {name: score for name, score in record["scores"].items() if score >= 0}
        file.write_text(json.dumps(record))
    files = ("--collect", ann, "--collect", bo)
    ran = vlv(*command(photographs, *files, "--json", "--output", tmp_path / "out"))
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["rows"]
    found = {
        row["labels"]["rater"]: (row["figures"]["difference"]["value"], row["count"])
        for row in rows
        if row["labels"]["part"] == "differences"
    }
    assert found == {"Ann": (1, 3), "people": (1, 3)}
    counts = [row["count"] for row in rows if row["labels"]["part"] == "scores"]
    assert sorted(counts) == [0, 3, 3, IMAGES, IMAGES, 2 * IMAGES]


def test_people_who_rated_nothing_are_named_and_lose_nothing(
    vlv: Callable, photographs: Path, tmp_path: Path
) -> None:
    for name in ("Ann", "Bo"):
        (tmp_path / name).write_text(json.dumps({"rater": name, "scores": {}}))
    files = ("--collect", tmp_path / "Ann", "--collect", tmp_path / "Bo")
    ran = vlv(*command(photographs, *files, "--json", "--output", tmp_path / "out"))
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["rows"] == [] and "Ann rated no caption." in result["notes"]


def test_ratings_that_do_not_fit_are_refused(
    vlv: Callable, photographs: Path, rate_page: Path, tmp_path: Path
) -> None:
    def refused(*files: Path) -> str:
        words = [word for file in files for word in ("--collect", file)]
        ran = vlv(*command(photographs, *words, "--output", tmp_path / "out"))
        assert ran.code in (1, 2) and ran.err.startswith("vlv: ") and ran.err.count("\n") == 1
        return str(ran.err)

    good = ratings(rate_page, "Bo", lambda text: 2, tmp_path / "bo.json")
    again = ratings(rate_page, "Bo", lambda text: 3, tmp_path / "again.json")
    assert "two files hold ratings by Bo" in refused(good, again)
    assert "scores are 0 to 6" in refused(
        ratings(rate_page, "Di", lambda text: 7, tmp_path / "di.json")
    )
    (tmp_path / "other.json").write_text('{"rater": "Ed", "scores": {"abc": 3}}')
    assert "rates captions that are not among these" in refused(tmp_path / "other.json")
    taken = ratings(rate_page, "people", lambda text: 2, tmp_path / "taken.json")
    assert "are called people" in refused(taken)
    (tmp_path / "none.json").write_text("[]")
    assert "is not a JSON object" in refused(tmp_path / "none.json")
