"""The layout of COCO: where its files lie, and what they say."""

import json
from pathlib import Path

import pytest
from PIL import Image

from vlv.data.captioned import open_captioned
from vlv.data.coco import CocoImages
from vlv.errors import DatasetError

NAMES = ("COCO_val2014_000000000042.jpg", "COCO_val2014_000000000007.jpg")
CAPTIONS = {42: ["A red square.", "Something\nred."], 7: ["A blue square."]}


def save_coco(root: Path, annotations: str = "annotations", kind: str = "captions") -> Path:
    """`root/val2014` and a file that describes it, which is returned."""
    folder = root / "val2014"
    folder.mkdir(parents=True)
    for name, color in zip(NAMES, ("red", "blue"), strict=True):
        Image.new("RGB", (20, 16), color).save(folder / name)
    images = [{"id": int(name[-16:-4]), "file_name": name} for name in NAMES]
    texts = [
        {"image_id": number, "caption": text, "id": 10 * number + at}
        for number, several in CAPTIONS.items()
        for at, text in enumerate(several)
    ]
    boxes = [{"image_id": 42, "bbox": [0, 0, 1, 1], "id": 1}]
    file = root / annotations / f"{kind}_val2014.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    entries = texts if kind == "captions" else boxes
    file.write_text(json.dumps({"images": images, "annotations": entries}))
    return file


@pytest.mark.parametrize("annotations", ["annotations", ".", "val2014"])
@pytest.mark.parametrize("given", ["val2014", ".", "file"])
def test_it_is_found_by_its_images_its_root_or_its_file(
    annotations: str, given: str, tmp_path: Path
) -> None:
    file = save_coco(tmp_path / "coco", annotations)
    if given == "." and annotations == "val2014":
        given = "val2014"  # a root is known by the files in it
    path = file if given == "file" else tmp_path / "coco" / given
    images = open_captioned(path, index_folder=tmp_path / "index")
    assert isinstance(images, CocoImages)
    assert [images[at].file_name for at in range(len(images))] == list(NAMES)
    assert images[0].texts == ["A red square.", "Something red."]
    assert images[1].caption == "A blue square." and images[1].picture().size == (20, 16)


def test_some_images_may_be_left_out(tmp_path: Path) -> None:
    save_coco(tmp_path / "coco")
    (tmp_path / "coco" / "val2014" / NAMES[0]).unlink()
    images = open_captioned(tmp_path / "coco" / "val2014", index_folder=tmp_path / "index")
    assert images[1].caption == "A blue square."
    with pytest.raises(DatasetError, match="cannot be read"):
        images[0]


def test_instances_name_images_without_captions(tmp_path: Path) -> None:
    save_coco(tmp_path / "coco", kind="instances")
    images = open_captioned(tmp_path / "coco" / "val2014", index_folder=tmp_path / "index")
    assert len(images) == 2 and images[0].texts == []


def test_a_folder_beside_files_of_another_split_is_a_folder(tmp_path: Path) -> None:
    save_coco(tmp_path / "coco")
    other = tmp_path / "coco" / "train2014"
    (tmp_path / "coco" / "val2014").rename(other)
    assert not isinstance(open_captioned(other, index_folder=tmp_path / "index"), CocoImages)


def test_other_json_of_captions_that_is_called_alike_is_none(tmp_path: Path) -> None:
    file = save_coco(tmp_path / "coco", "val2014")
    file.write_text(json.dumps({name: "A square." for name in NAMES}))
    for path in (file, file.parent):
        images = open_captioned(path, index_folder=tmp_path / "index")
        assert not isinstance(images, CocoImages) and images[0].caption == "A square."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"images": [{"id": 1}], "annotations": []}', "the form of COCO"),
        ('{"images": [], "annotations": []}', "names no image"),
        ('{"images": [{"id": 1, "file_name": "../a.jpg"}]}', "leads out of its folder"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}]}', "put the images into the folder val2014"),
    ],
)
def test_a_damaged_file_is_one_sentence(content: str, message: str, tmp_path: Path) -> None:
    file = save_coco(tmp_path / "coco")
    file.write_text(content)
    with pytest.raises(DatasetError, match=message):
        CocoImages(file)
