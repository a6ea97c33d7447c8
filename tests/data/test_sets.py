"""Sets of images and captions: what is written comes back, here and in the readers people use."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from vlv.data.curation.source import kind_of
from vlv.data.folder import shared_stems
from vlv.data.image_sets import open_image_set
from vlv.data.items import items, origins
from vlv.data.lenient import Unusable
from vlv.data.samples import Sample
from vlv.data.sets import FORMATS, detect_format, read_set, write_set
from vlv.errors import ConfigError, DatasetError, ImageError


def a_sample(number: int, **changes: object) -> Sample:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (number, 100, 200)).save(file, "PNG")
    fields = {
        "key": f"{number:09d}",
        "image": file.getvalue(),
        "extension": ".png",
        "caption": f"Picture {number}, naïve café 图.",
        "meta": {"number": number, "nested": {"list": [1, 2.5, None]}},
    }
    return Sample(**{**fields, **changes})  # type: ignore[arg-type]


def some_samples(count: int = 7) -> Iterator[Sample]:
    return (a_sample(number) for number in range(count))


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_is_written_comes_back(tmp_path: Path, format: str) -> None:
    assert write_set(some_samples(), tmp_path, format=format, shard_size=3) == 7
    assert detect_format(tmp_path) == format
    back = list(read_set(tmp_path))
    assert [(s.key, s.image, s.extension, s.caption) for s in back] == [
        (s.key, s.image, s.extension, s.caption) for s in some_samples()
    ]
    assert back[3].picture().getpixel((0, 0)) == (3, 100, 200)
    if format != "folder":  # a folder keeps no more than images and captions
        for sample, original in zip(back, some_samples(), strict=True):
            assert original.meta.items() <= sample.meta.items()


def test_the_same_samples_give_the_same_bytes(tmp_path: Path, format: str) -> None:
    contents = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        write_set(some_samples(), folder, format=format, shard_size=3)
        contents.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == {"folder": 15, "webdataset": 6, "parquet": 3}[format]


def test_nothing_to_write(tmp_path: Path, format: str) -> None:
    assert write_set(iter([]), tmp_path, format=format) == 0


def test_captions_are_required(tmp_path: Path, format: str) -> None:
    with pytest.raises(DatasetError, match="000000001 has no caption"):
        write_set([a_sample(0), a_sample(1, caption=" \n")], tmp_path, format=format)
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob("*.parquet"))
    assert not list(tmp_path.glob("metadata.jsonl")) + list(tmp_path.glob(".*"))


def test_captions_become_one_line(tmp_path: Path, format: str) -> None:
    write_set([a_sample(0, caption=" Two\n lines. ")], tmp_path, format=format)
    assert next(read_set(tmp_path)).caption == "Two lines."


def test_unknown_formats_are_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'zip'"):
        write_set(some_samples(), tmp_path, format="zip")
    with pytest.raises(ConfigError, match="'zip'"):
        read_set(tmp_path, format="zip")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        read_set(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"notes\.txt"):
        read_set(tmp_path / "notes.txt")
    with pytest.raises(DatasetError, match=r"no \.tar files"):
        read_set(tmp_path, format="webdataset")


# The readers that people use.


def test_the_image_folder_of_datasets_reads_a_folder(tmp_path: Path) -> None:
    write_set(some_samples(), tmp_path / "set", format="folder")
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert rows["text"] == [sample.caption for sample in some_samples()]
    assert [image.getpixel((0, 0))[0] for image in rows["image"]] == list(range(7))


def test_datasets_reads_parquet(tmp_path: Path) -> None:
    write_set(some_samples(), tmp_path / "set", format="parquet", shard_size=3)
    rows = datasets.load_dataset(
        "parquet", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert rows["caption"] == [sample.caption for sample in some_samples()]
    assert [image.getpixel((0, 0))[0] for image in rows["image"]] == list(range(7))


def test_parquet_of_datasets_is_read(tmp_path: Path) -> None:
    images = [sample.picture() for sample in some_samples(3)]
    captions = [sample.caption for sample in some_samples(3)]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": images, "text": captions}, features=features)
    table.to_parquet(tmp_path / "table.parquet")
    back = list(read_set(tmp_path / "table.parquet"))
    assert [sample.caption for sample in back] == captions
    assert [sample.key for sample in back] == [f"table-{row:06d}" for row in range(3)]
    assert np.array_equal(np.asarray(back[2].picture()), np.asarray(images[2]))


def test_webdataset_reads_shards(tmp_path: Path) -> None:
    write_set(some_samples(), tmp_path, format="webdataset", shard_size=3)
    shards = sorted(str(path) for path in tmp_path.glob("*.tar"))
    assert [Path(path).name for path in shards] == ["00000.tar", "00001.tar", "00002.tar"]
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [row["__key__"] for row in rows] == [sample.key for sample in some_samples()]
    assert [row["txt"] for row in rows] == [sample.caption for sample in some_samples()]
    assert [row["png"].getpixel((0, 0))[0] for row in rows] == list(range(7))
    assert rows[5]["json"]["number"] == 5
    stats = json.loads((tmp_path / "00002_stats.json").read_text())
    assert stats["count"] == stats["successes"] == 1


def test_shards_of_webdataset_are_read(tmp_path: Path) -> None:
    path = tmp_path / "made.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for sample in some_samples(3):
            writer.write(
                {"__key__": f"deep/{sample.key}", "png": sample.image, "txt": sample.caption}
            )
    back = list(read_set(path))
    assert [sample.key for sample in back] == [f"deep/{number:09d}" for number in range(3)]
    assert [sample.caption for sample in back] == [sample.caption for sample in some_samples(3)]


# Folders as people have them.


def test_a_folder_of_images_alone(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "sub/a.PNG", "sub/ignored.md"):
        (tmp_path / name).write_bytes(a_sample(1).image)
    back = list(read_set(tmp_path))
    assert [(s.key, s.file_name, s.caption) for s in back] == [
        ("b", "b.png", None),
        ("sub/a", "sub/a.PNG", None),
    ]


CSV = 'file_name,text,artist\r\na.png,"One, and\nmore.",\r\n./sub/b.png,Two.,Ada\r\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", CSV),
        ("metadata.csv", CSV.replace("text", "caption")),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "caption": "One, and\\nmore."}\n'
            '{"file_name": "sub/b.png", "caption": "Two.", "artist": "Ada"}',
        ),
    ],
)
def test_captions_in_every_file_of_the_image_folder(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "sub").mkdir()
    for image in ("a.png", "sub/b.png"):
        (tmp_path / image).write_bytes(a_sample(1).image)
    (tmp_path / name).write_bytes(text.encode())
    for found in (list(read_set(tmp_path)), [one.sample for one in items(origins([tmp_path]))]):
        assert [one.caption for one in found] == ["One, and\nmore.", "Two."]
        assert [one.meta for one in found] == [{}, {"artist": "Ada"}]


def test_captions_in_subfolders_of_the_image_folder(tmp_path: Path) -> None:
    """As in `train` and `test` of Hugging Face; a list beside its images' folder names others."""
    for image in ("a.png", "train/a.png", "test/deep/a.png"):
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / image).write_bytes(a_sample(1).image)
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\na.png,Train.\n")
    (tmp_path / "test" / "metadata.jsonl").write_text(
        '{"file_name": "deep/a.png", "text": "Test."}\n{"file_name": "a.png", "text": "Gone."}'
    )
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "Here."}')
    captions = {"a": "Here.", "test/deep/a": "Test.", "train/a": "Train."}
    assert {one.key: one.caption for one in read_set(tmp_path)} == captions
    found = [one.sample for one in items(origins([tmp_path]))]
    assert {one.key: one.caption for one in found if isinstance(one, Sample)} == captions


def test_damaged_csv_is_named_and_that_of_others_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_sample(1).image)
    (tmp_path / "metadata.csv").write_text("file_name,text\n,No name.\n")
    with pytest.raises(DatasetError, match=r"line 2 of .*metadata\.csv has no file_name"):
        list(read_set(tmp_path))
    (tmp_path / "metadata.csv").write_text("id,label\n3,cat\n")
    assert [one.caption for one in read_set(tmp_path)] == [None]


def test_a_caption_file_goes_before_metadata(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(a_sample(1).image)
    (tmp_path / "a.txt").write_text("From the file.\n", encoding="utf-8-sig")
    lines = [{"file_name": f"{name}.png", "text": f"Meta {name}.", "more": 1} for name in "ab"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    back = list(read_set(tmp_path))
    assert [s.caption for s in back] == ["From the file.", "Meta b."]
    assert [s.meta for s in back] == [{"more": 1}] * 2


def test_the_first_line_of_a_caption_file_is_the_caption(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_sample(1).image)
    (tmp_path / "a.txt").write_text("The best.\r\n\n  Another. \n")
    with pytest.warns(UserWarning, match="several lines"):
        (back,) = read_set(tmp_path)
    assert (back.caption, back.meta) == ("The best.", {"texts": ["The best.", "Another."]})


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    for name in (".trash", "sub"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old.png").write_bytes(a_sample(1).image)
    assert [s.key for s in read_set(tmp_path)] == ["sub/old"]


def test_an_archive_among_images_is_not_what_is_meant(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_sample(1).image)
    write_set(some_samples(), tmp_path, format="webdataset")
    assert [s.key for s in read_set(tmp_path)] == ["a"]


def test_other_caption_extensions(tmp_path: Path) -> None:
    from vlv.data.folder import read_folder

    (tmp_path / "a.png").write_bytes(a_sample(1).image)
    (tmp_path / "a.caption").write_text("Kohya's own default.")
    assert (
        next(read_folder(tmp_path, caption_extension=".caption")).caption == "Kohya's own default."
    )
    for found in (next(read_set(tmp_path)), next(items(origins([tmp_path]))).sample):
        assert isinstance(found, Sample) and found.caption == "Kohya's own default."
    (tmp_path / "a.txt").write_text("What trainers read first.")
    assert next(read_set(tmp_path)).caption == "What trainers read first."


def test_shared_stems() -> None:
    images = [Path("x/a.jpg"), Path("x/a.png"), Path("y/a.png"), Path("x/a.b.png")]
    assert shared_stems(images) == {Path("x/a"): images[:2]}


def test_shared_caption_files_are_warned_of(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(a_sample(1).image)
    lines = [{"file_name": name, "text": f"That of {name}."} for name in ("a.png", "a.jpg")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert len(list(read_set(tmp_path))) == 2  # each has a caption of its own
    (tmp_path / "a.txt").write_text("Of one of them.")
    for name in ("b.webp", "b.jpg", "b.gif", "c.png"):
        (tmp_path / name).write_bytes(a_sample(1).image)
    (tmp_path / "b.caption").write_text("Of one of them.")
    with pytest.warns(UserWarning, match="share one caption file") as found:
        assert len(list(read_set(tmp_path))) == 6
    with pytest.warns(UserWarning, match="share one caption file") as again:
        assert len(open_image_set(tmp_path, index_folder=tmp_path / "index")) == 6
    assert [str(one.message) for one in found] == [str(one.message) for one in again]
    assert "a.jpg and a.png share one caption file (of 2 such files). It" in str(found[0].message)


def test_a_line_of_metadata_ends_at_its_newline_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_sample(1).image)
    text = "One\u2028and\u0085the same."
    line = json.dumps({"file_name": "a.png", "text": text}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(f"\n{line}\n\n", encoding="utf-8")
    assert [sample.caption for sample in read_set(tmp_path)] == [text]


def test_files_that_are_not_there_and_folders_that_look_like_images(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    assert list(read_set(tmp_path)) == []
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"gone\.png cannot be read"):
        list(read_set(tmp_path))
    with pytest.raises(DatasetError, match="no folder"):
        list(read_set(tmp_path / "nowhere", format="folder"))


@pytest.mark.parametrize("key", ["../outside", "/outside", "sub/../../outside"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, key: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match="leads out of the folder"):
        write_set([a_sample(0, key=key)], out, format="folder")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_samples_of_one_key_are_not_written_over_each_other(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="two samples have the key"):
        write_set([a_sample(0), a_sample(0, extension=".webp")], tmp_path, format="folder")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"file_name": "a.png", "text": ["x", 5]}', "no text but list"),
        ('{"file_name": "a.png", "text": ', "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"text": "x"}', "no file_name"),
        ('{"file_name": "gone.png", "text": "x"}', r"names gone\.png"),
    ],
)
def test_damaged_metadata_is_named(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "a.png").write_bytes(a_sample(1).image)
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(DatasetError, match=problem):
        list(read_set(tmp_path))


def test_a_caption_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_sample(1).image)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"a\.txt is not UTF-8"):
        list(read_set(tmp_path))


def test_a_bad_image_is_the_business_of_whoever_decodes_it(tmp_path: Path) -> None:
    write_set([a_sample(0, image=b"no image"), a_sample(1)], tmp_path, format="webdataset")
    bad, good = read_set(tmp_path)
    with pytest.raises(ImageError):
        bad.picture()
    assert good.picture().size == (4, 3)


# Shards and tables of unknown origin.


def shard(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        ("../outside.png", b"x"),
        ("/etc/absolute.png", b"x"),
        ("a\\..\\b.png", b"x"),
        ("a.pkl", b"cos\nsystem\n(S'true'\ntR."),
        ("a.image.pyd", b"x"),
        ("a.PTH", b"x"),
        special("a.png", tarfile.SYMTYPE, "/etc/passwd"),
        special("a.png", tarfile.LNKTYPE, "b.png"),
        special("a.png", tarfile.FIFOTYPE),
        special("a.png", tarfile.CHRTYPE),
    ],
    ids=lambda member: repr(
        getattr(member, "type", member[0] if isinstance(member, tuple) else "")
    ),
)
def test_malicious_members_are_refused_by_name(
    tmp_path: Path, member: tuple[str, bytes] | tarfile.TarInfo
) -> None:
    path = shard(tmp_path / "evil.tar", ("0.png", a_sample(0).image), member)
    name = member.name if isinstance(member, tarfile.TarInfo) else member[0]
    with pytest.raises(DatasetError) as refusal:
        list(read_set(path))
    assert repr(name) in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_giant_members_are_refused_before_they_are_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = 10**12
    path = tmp_path / "giant.tar"
    path.write_bytes(info.tobuf() + b"\0" * 10_240)
    with pytest.raises(DatasetError, match="more than an image may have"):
        list(read_set(path))


def test_compressed_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = 1000
        tar.addfile(info, io.BytesIO(b"\0" * 1000))
    with pytest.raises(DatasetError, match="damaged"):
        list(read_set(path))


def test_torn_shards_are_named(tmp_path: Path) -> None:
    write_set(some_samples(), tmp_path, format="webdataset")
    path = tmp_path / "00000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:1024])  # inside the first image's padding: nothing else is left
    with pytest.raises(DatasetError, match="its stats say 7"):
        list(read_set(tmp_path))
    path.write_bytes(whole[:600])
    with pytest.raises(DatasetError, match=r"00000\.tar"):
        list(read_set(tmp_path))


def damage_header(path: Path, member: str) -> int:
    """Overwrite the header of a member; where it lies."""
    with tarfile.open(path) as tar:
        place = tar.getmember(member).offset
    data = bytearray(path.read_bytes())
    data[place : place + 512] = b"x" * 512
    path.write_bytes(data)
    return place


def test_a_damaged_header_is_not_the_end_of_a_shard(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *((f"{n}.png", a_sample(n).image) for n in range(3)))
    place = damage_header(path, "1.png")
    with pytest.raises(DatasetError, match=rf"a\.tar is damaged at byte {place}"):
        list(read_set(path))


def test_samples_without_an_image_are_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", ("7.txt", b"A caption."), ("8.png", a_sample(8).image))
    with pytest.raises(DatasetError, match=r"sample 7 .* has no image"):
        list(read_set(path))


def test_hidden_members_are_passed_over(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tar",
        ("._7.png", b"of macOS"),
        ("7.png", a_sample(7).image),
        ("deep/.DS_Store", b"of macOS"),
        ("7.txt", b"A caption."),
    )
    assert [(s.key, s.caption) for s in read_set(path)] == [("7", "A caption.")]


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_hidden_files_are_passed_over(tmp_path: Path, format: str) -> None:
    write_set(some_samples(), tmp_path, format=format)
    name = next(path.name for path in tmp_path.iterdir() if not path.name.endswith(".json"))
    (tmp_path / f"._{name}").write_bytes(b"of macOS")
    assert len(list(read_set(tmp_path))) == 7


def test_an_empty_caption_file_leaves_the_caption_in_json(tmp_path: Path) -> None:
    image = ("7.png", a_sample(7).image)
    path = shard(tmp_path / "a.tar", image, ("7.txt", b"\n"), ("7.json", b'{"caption": "One."}'))
    assert [one.caption for one in read_set(path)] == ["One."]


def test_a_table_of_large_images_has_small_groups(tmp_path: Path) -> None:
    """A column of structs holds 2 GB at most, and a group is in memory as a whole."""
    large = (a_sample(number, image=bytes([number]) * 30_000_000) for number in range(5))
    write_set(large, tmp_path, format="parquet")
    with pq.ParquetFile(tmp_path / "00000.parquet") as file:
        assert [file.metadata.row_group(at).num_rows for at in range(2)] == [3, 2]


def test_an_image_larger_than_any_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    os.truncate(tmp_path / "a.png", 100_000_001)
    with pytest.raises(DatasetError, match="more than the 100 MB"):
        list(read_set(tmp_path))


def test_a_caption_in_json_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", ("7.png", a_sample(7).image), ("7.json", b'{"caption": 3}'))
    with pytest.raises(DatasetError, match=r"7\.json .* is no text but int"):
        list(read_set(path))


def test_keys_that_readers_refuse_are_refused_on_writing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"key a\.b has a dot"):
        write_set([a_sample(0, key="a.b")], tmp_path, format="webdataset")
    with pytest.raises(DatasetError, match=r"key a\\b has a backslash"):
        write_set([a_sample(0, key="a\\b")], tmp_path, format="webdataset")


def test_metadata_parquet_of_img2dataset_does_not_hide_shards(tmp_path: Path) -> None:
    write_set(some_samples(), tmp_path, format="webdataset")
    (tmp_path / "00000.parquet").touch()
    assert detect_format(tmp_path) == "webdataset"


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    write_set(some_samples(), tmp_path, format="parquet")
    path = tmp_path / "00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"00000\.parquet is damaged"):
        list(read_set(path))


def test_parquet_without_images_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"url": ["x"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="no column 'image'"):
        list(read_set(tmp_path / "a.parquet"))
    rows = {"image": [{"bytes": None, "path": "x.png"}]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DatasetError, match=r"row 0 .* no image bytes"):
        list(read_set(tmp_path / "b.parquet"))


def test_parquet_of_others_with_other_columns(tmp_path: Path) -> None:
    image = {"bytes": a_sample(0).image, "path": "/"}
    rows = {"image": [image], "caption": ["A."], "meta": [{"of": "another type"}]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    (sample,) = read_set(tmp_path / "a.parquet")
    assert (sample.key, sample.caption, sample.meta) == ("a-000000", "A.", {})
    rows = {"image": [image], "caption": [[1, 2]]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DatasetError, match=r"row 0 .* is no text but list"):
        list(read_set(tmp_path / "b.parquet"))


def test_a_table_with_a_list_of_captions(tmp_path: Path) -> None:
    """As Flickr30k has them."""
    lists = [["One.", "Two."], ["Alone."], [], [" "]]
    columns = {"image": [a_sample(1).image] * 4, "caption": lists}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "a.parquet")
    for found in (list(read_set(tmp_path)), [one.sample for one in items(origins([tmp_path]))]):
        assert [one.texts for one in found] == [["One.", "Two."], ["Alone."], [], []]
        assert [one.caption for one in found] == ["One.", "Alone.", None, None]


@pytest.mark.parametrize("column", ["jpg", "png", "webp"])
def test_a_table_of_img2dataset(tmp_path: Path, column: str) -> None:
    """Images are in a column with the name of their format; there is none where a link failed."""
    columns = {
        "url": ["https://a.example/1", "https://a.example/2"],
        "key": ["000000000", "000000001"],
        "status": ["success", "failed_to_download"],
        "caption": ["One.", "Two."],
        column: [a_sample(1).image, None],
    }
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "00000.parquet")
    assert kind_of(tmp_path) == "parquet"
    first, second = items(origins([tmp_path]))
    assert isinstance(first.sample, Sample) and first.sample.image == a_sample(1).image
    assert first.sample.meta == {
        "url": "https://a.example/1",
        "key": "000000000",
        "status": "success",
    }
    assert isinstance(second.sample, Unusable) and "no image bytes" in second.sample.message
    found = open_image_set(tmp_path, index_folder=tmp_path / "index")
    assert (found[0].image, found[0].caption) == (a_sample(1).image, "One.")
    with pytest.raises(DatasetError, match=r"row 1 .* holds no image bytes"):
        found[1]


def test_linked_folders_are_read_once_each(tmp_path: Path) -> None:
    folder, outside = tmp_path / "set", tmp_path / "outside"
    for place in (folder / "real" / "a.png", outside / "b.png"):
        place.parent.mkdir(parents=True)
        place.write_bytes(a_sample(1).image)
    for name, target in (("again", "real"), ("linked", "../outside"), ("loop", ".")):
        (folder / name).symlink_to(target)
    (folder / "metadata.jsonl").write_text('{"file_name": "again/a.png", "text": "A."}\n')
    samples = list(read_set(folder))
    assert [(one.key, one.caption) for one in samples] == [("linked/b", None), ("real/a", "A.")]
    (folder / "gone").symlink_to("nothing")
    with pytest.warns(UserWarning, match="gone leads nowhere"):
        assert len(list(read_set(folder))) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_captions_that_were_edited_on_windows(tmp_path: Path, encoding: str) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(a_sample(1).image)
    (tmp_path / "a.txt").write_bytes("It’s grün.\r\n\r\n".encode(encoding))
    line = '{"file_name": "b.png", "text": "Größe “x”"}\r\n'
    (tmp_path / "metadata.jsonl").write_bytes(line.encode(encoding))
    assert [one.caption for one in read_set(tmp_path)] == ["It’s grün.", "Größe “x”"]


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf", b"\r\n \n", "\u200b\ufeff".encode("utf-16")])
def test_an_emptied_caption_file_is_no_caption(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(a_sample(1).image)
    (tmp_path / "a.txt").write_bytes(data)
    (sample,) = read_set(tmp_path)
    assert sample.caption is None and sample.texts == []


def test_several_lines_are_all_captions_and_not_cut_in_silence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_sample(1).image)
    (tmp_path / "a.txt").write_text("First.\n\nSecond.\n")
    with pytest.warns(UserWarning, match=r"1 caption file holds several lines \(that of a\.png"):
        (sample,) = read_set(tmp_path)
    assert sample.caption == "First." and sample.texts == ["First.", "Second."]
    with pytest.warns(UserWarning, match="several lines"):
        open_image_set(tmp_path, index_folder=tmp_path / "index")


def test_a_pipe_among_images_hangs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="not a file"):
        list(read_set(tmp_path))
