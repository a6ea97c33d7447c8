"""`vlv data inspect`: the figures are those of the dataset, and its page is whole and harmless."""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from vlv.data.inspection import inspecting
from vlv.data.inspection.page import write_page
from vlv.data.inspection.samples import Duplicates, FrequentTexts, KeptSamples, hash_of
from vlv.data.inspection.summary import histogram
from vlv.data.samples import Sample
from vlv.data.sets import write_set

ENGLISH = "A red ball lies beside a small blue cube on the wooden floor of the room."
GERMAN = "Ein roter Ball liegt neben einem kleinen blauen Würfel auf dem Boden des Zimmers."
HOSTILE = '<script>alert("a")</script> & a ball on the floor of the room'


def picture(number: int, size: tuple[int, int], format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (number * 20, 90, 200 - number)).save(file, format)
    return file.getvalue()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Ten images: two of them copies, three with the same caption, and three that are damaged."""
    folder = tmp_path / "dataset"
    captions = [ENGLISH] * 3 + [GERMAN, HOSTILE, "A ball.", "A cube."]
    sizes = [(64, 64), (128, 64), (64, 256), (700, 600), (50, 50), (10, 10), (10, 10)]
    many = [
        Sample(f"{at}", picture(min(at, 5), size, "JPEG" if at else "PNG"), ".jpg", caption)
        for at, (size, caption) in enumerate(zip(sizes, captions, strict=True))
    ]
    write_set(many, folder, format="folder")
    (folder / "cut.png").write_bytes(picture(9, (400, 400), "PNG")[:-300])
    (folder / "empty.png").touch()
    (folder / "drawing.svg").write_text("<svg/>")
    return folder


def test_figures(vlv: Callable, dataset: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = vlv("data", "inspect", dataset, "--json", "--html", page, "--workers", 2)
    assert ran.code == 1
    *refused, found = map(json.loads, ran.out.splitlines())
    assert {one["file_name"]: one["error"] for one in refused} == {
        "cut.png": "truncated",
        "empty.png": "empty",
        "drawing.svg": "unknown-format",
    }
    assert found["images"] == found["captioned"] == 7
    assert found["refused"] == {"truncated": 1, "empty": 1, "unknown-format": 1}
    assert found["formats"] == {"JPEG": 6, "PNG": 1}
    assert found["copies_of_files"] == 1
    assert found["repeated_captions"] == 2
    assert found["most_repeated_captions"] == [{"caption": ENGLISH, "count": 3}]
    assert found["languages"] == {"en": 4, "de": 1, "too short to tell": 2}
    assert found["shorter_side"]["quantiles"] == [10, 10, 64, 600, 600]
    assert dict(found["shorter_side"]["bins"]) == {
        **{"< 64": 3, "64 to 128": 3, "128 to 256": 0, "256 to 384": 0, "384 to 512": 0},
        "512 to 768": 1,
    }
    assert found["aspect_ratio"]["quantiles"][0] == 0.25
    assert found["bytes"] == sum(path.stat().st_size for path in dataset.glob("[0-9].jpg"))
    _check_page(page.read_text(encoding="utf-8"))
    others = [vlv("data", "inspect", dataset, "--json", "--workers", n).out for n in (1, 3)]
    assert others == [ran.out, ran.out]


class Tags(HTMLParser):
    """Counts tags and collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def _check_page(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.tags["script"] == 0
    assert tags.tags["img"] == 7
    assert tags.tags["svg"] >= 6
    assert all(address.startswith("data:image/jpeg;base64,") for address in tags.addresses)
    assert "&lt;script&gt;" in page


def test_headers_alone(vlv: Callable, dataset: Path) -> None:
    """The damage of the truncated image lies behind its header."""
    ran = vlv("data", "inspect", dataset, "--headers", "--json")
    found = json.loads(ran.out.splitlines()[-1])
    assert (ran.code, found["images"], found["decoded"]) == (1, 8, False)


def test_layouts_and_a_page_in_words(vlv: Callable, tmp_path: Path) -> None:
    many = [Sample(f"{at}", picture(at, (32, 32), "PNG"), ".png", ENGLISH) for at in range(5)]
    for layout in ("webdataset", "parquet"):
        write_set(many, tmp_path / layout, format=layout, shard_size=2)
        ran = vlv("data", "inspect", tmp_path / layout)
        assert ran.code == 0
        assert "5 images, 5 captioned" in ran.out
        assert "captions that repeat another: 4" in ran.out
    (tmp_path / "none").mkdir()
    assert vlv("data", "inspect", tmp_path / "none").code != 0
    wrong = vlv("data", "inspect", tmp_path / "parquet", "--html", tmp_path)
    assert wrong.code == 2


def test_a_missing_package_is_named_before_any_image_is_read(
    vlv: Callable, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr(inspecting, "image_header", lambda *_, **__: read.append(1) or ("", 1, 1))
    monkeypatch.setitem(sys.modules, "py3langid", None)
    ran = vlv("data", "inspect", dataset, "--headers")
    assert ran.code == 2 and "vlv[data]" in ran.err and not read


def test_refused_images_that_are_not_named_are_counted(vlv: Callable, tmp_path: Path) -> None:
    for number in range(1003):
        (tmp_path / f"{number:04d}.png").write_bytes(b"no image")
    ran = vlv("data", "inspect", tmp_path, "--headers")
    assert ran.code == 1 and "3 more refused images are counted" in ran.err
    assert "refused: unknown-format 1,003" in ran.out


def test_images_of_one_name_are_all_counted(vlv: Callable, tmp_path: Path) -> None:
    """Tables of others may name all of their images alike."""
    same = [Sample("image", picture(at, (20, 20), "PNG"), ".png", "A ball.") for at in range(3)]
    write_set(same, tmp_path / "set", format="parquet")
    ran = vlv("data", "inspect", tmp_path / "set", "--json", "--html", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["images"] == 3


def test_samples_do_not_depend_on_the_order() -> None:
    names = [f"name-{number}" for number in range(1000)]
    kept = []
    for order in (names, names[::-1]):
        samples: KeptSamples[int] = KeptSamples(50)
        for name in order:
            samples.add(name, len(name))
        kept.append(samples.items())
    assert kept[0] == kept[1]
    assert len(kept[0]) == 50
    middle = sum(int(name.removeprefix("name-")) for name, _ in kept[0]) / 50
    assert 350 < middle < 650  # a uniform sample has 500 +- 41


def test_frequent_texts_are_found_among_many() -> None:
    frequent, duplicates = FrequentTexts(100), Duplicates()
    texts = [("often" if at % 20 == 0 else f"text {at}") for at in range(20_000)]
    for text in texts:
        frequent.add(text)
        duplicates.add(text.encode())
    again, counts = duplicates.counts()
    assert "often" in frequent.texts()
    assert len(frequent.texts()) <= 100
    assert (again, counts) == (999, {hash_of(b"often"): 1000})


def test_bins() -> None:
    found = histogram("x", Counter({1: 2, 5: 1, 10: 4}), (5, 10, 20))
    assert found.bins == [("< 5", 2), ("5 to 10", 1), ("10 to 20", 4)]
    assert found.quantiles == [1, 1, 10, 10, 10]
    assert histogram("x", Counter(), (5, 10)).bins == []


def test_a_page_holds_no_key_of_an_address(tmp_path: Path) -> None:
    source = Path("https://me@host.example/set/0.tar?signature=SECRET")
    write_page(tmp_path / "page.html", source, inspecting.Inspection(), Counter())
    page = (tmp_path / "page.html").read_text()
    assert "host.example/set/0.tar" in page
    assert "SECRET" not in page and "me@" not in page
