"""Sets by number: the same samples as in reading order, in every layout, and what is refused."""

import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.test_sets import a_sample, damage_header, some_samples

from vlv.data import image_sets
from vlv.data.image_sets import ImageSet, open_image_set
from vlv.data.sets import FORMATS, read_set, write_set
from vlv.errors import DatasetError


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def index_folder(tmp_path: Path) -> Path:
    return tmp_path / "indexes"


def opened(path: Path, index_folder: Path) -> ImageSet:
    return open_image_set(path, index_folder=index_folder)


def test_samples_by_number_are_those_read_in_order(
    tmp_path: Path, index_folder: Path, format: str
) -> None:
    folder = tmp_path / "set"
    write_set(some_samples(), folder, format=format, shard_size=3)
    images = opened(folder, index_folder)
    in_order = list(read_set(folder))
    assert len(images) == len(in_order) == 7
    for index in (6, 0, 3, 5, 1, 2, 4):
        assert images[index] == in_order[index]
    again = opened(folder, index_folder)
    assert again.fingerprint == images.fingerprint


def test_names_and_sub_folders_give_the_order(tmp_path: Path, index_folder: Path) -> None:
    for name in ("b/2.png", "a/10.PNG", "a/9.png", "c.png", ".hidden.png", "note.txt"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(a_sample(1).image)
    images = opened(tmp_path / "set", index_folder)
    assert [images[index].file_name for index in range(len(images))] == [
        sample.file_name for sample in read_set(tmp_path / "set")
    ]


def test_long_names_and_members_that_are_no_images_are_found_again(
    tmp_path: Path, index_folder: Path
) -> None:
    """Names beyond 100 letters take headers of their own in a tar archive."""
    source = tmp_path / "source"
    samples = [a_sample(n, key=f"{'x' * 150}/{'y' * 90}-{n}") for n in range(3)]
    write_set(samples, source, format="webdataset")
    images = opened(source, index_folder)
    assert [images[index].key for index in range(3)] == [sample.key for sample in samples]


def test_a_shard_that_changed_is_looked_through_again(tmp_path: Path, index_folder: Path) -> None:
    folder = tmp_path / "set"
    write_set(some_samples(5), folder, format="webdataset")
    first = opened(folder, index_folder)
    (made,) = index_folder.glob("*.npy")
    stamp = made.stat().st_mtime_ns
    opened(folder, index_folder)
    assert made.stat().st_mtime_ns == stamp  # not looked through twice
    write_set(some_samples(6), folder, format="webdataset")
    second = opened(folder, index_folder)
    assert (len(first), len(second)) == (5, 6)
    assert second.fingerprint != first.fingerprint
    state = (folder / "00000.tar").stat()
    os.utime(folder / "00000.tar", ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    assert opened(folder, index_folder).fingerprint == second.fingerprint
    assert len(list(index_folder.glob("*.npy"))) == 3


def test_the_fingerprint_tells_an_image_more_or_less(
    tmp_path: Path, index_folder: Path, format: str
) -> None:
    prints = set()
    for count in (4, 5):
        folder = tmp_path / str(count)
        write_set(some_samples(count), folder, format=format)
        prints.add(opened(folder, index_folder).fingerprint)
    assert len(prints) == 2


def test_the_fingerprint_of_captions_tells_an_edited_one_alone(
    tmp_path: Path, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    write_set(some_samples(4), folder, format="folder")
    sidecar = sorted(folder.glob("*.txt"))[3]
    image = opened(folder, index_folder).fingerprint
    text, metadata = sidecar.read_text(), (folder / "metadata.jsonl").read_text()

    def captions() -> str | None:
        images = opened(folder, index_folder)
        assert images.fingerprint == image
        return images.captions_fingerprint

    first = captions()
    assert captions() == first is not None
    sidecar.write_text(text.swapcase())  # of the same size
    assert captions() != first
    sidecar.write_text(text)
    (folder / "metadata.jsonl").write_text(metadata.replace('"text": "', '"text": "Another '))
    assert captions() != first
    # What is no caption does not count.
    (folder / "metadata.jsonl").write_text(metadata.replace('"text": "', '"score": 1, "text": "'))
    assert captions() == first
    with monkeypatch.context() as patch:
        patch.setattr(image_sets, "_LOOKED_AT", 1)
        of_a_large_set = captions()
        sidecar.write_text(text + "And more.\n")
        assert captions() != of_a_large_set
    sidecar.unlink()
    assert captions() != first


def test_one_unreadable_sample_leaves_the_others_readable(
    tmp_path: Path, index_folder: Path
) -> None:
    folder = tmp_path / "set"
    write_set(some_samples(3), folder, format="folder")
    images = opened(folder, index_folder)
    (folder / "000000001.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DatasetError, match=r"000000001\.txt is not UTF-8"):
        images[1]
    assert images[2].key == "000000002"


def test_a_sample_without_an_image_is_named(tmp_path: Path, index_folder: Path) -> None:
    tmp_path.joinpath("set").mkdir()
    with tarfile.open(tmp_path / "set" / "0.tar", "w") as tar:
        for name in ("a.txt", "b.txt"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(DatasetError, match=r"no sample is in .* the sample a in .* has no image"):
        opened(tmp_path / "set", index_folder)


@pytest.mark.parametrize(
    ("member", "message"),
    [("x.pkl", "is a pickle"), ("../x.png", "leaves the shard")],
)
def test_members_that_no_image_set_needs_are_refused_before_training(
    tmp_path: Path, index_folder: Path, member: str, message: str
) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(member))
    with pytest.raises(DatasetError, match=message):
        opened(tmp_path / "0.tar", index_folder)
    assert not list(index_folder.glob("*.npy"))


def test_every_row_group_of_a_table_is_reached(tmp_path: Path, index_folder: Path) -> None:
    table = pa.table(
        {
            "image": [a_sample(n).image for n in range(7)],
            "text": [f"Row {n}." for n in range(7)],
        }
    )
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=3)
    images = opened(tmp_path, index_folder)
    assert [images[index].caption for index in (6, 2, 3)] == ["Row 6.", "Row 2.", "Row 3."]
    assert images[6].image == a_sample(6).image


def test_a_row_whose_text_is_not_utf_8_leaves_the_others_readable(
    tmp_path: Path, index_folder: Path
) -> None:
    words = pa.array([b"First.", b"caf\xe9", b"Third."])
    table = {
        "image": pa.array([a_sample(n).image for n in range(3)]),
        "caption": pa.StringArray.from_buffers(3, *words.buffers()[1:]),
    }
    pq.write_table(pa.table(table), tmp_path / "0.parquet")
    images = opened(tmp_path, index_folder)
    assert [images[index].caption for index in (0, 2)] == ["First.", "Third."]
    with pytest.raises(DatasetError, match=r"row 1 of .*0\.parquet holds text that is not UTF-8"):
        images[1]


def test_names_that_are_no_text_are_indexed(tmp_path: Path, index_folder: Path) -> None:
    folder = tmp_path / os.fsdecode(b"set\xff")
    write_set(some_samples(3), folder, format="webdataset")
    with tarfile.open(folder / "00000.tar", "a", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(os.fsdecode(b"m\xff.pkl")))
    images = open_image_set(folder, index_folder=index_folder)
    assert len(images) == 3
    again = open_image_set(folder, index_folder=index_folder)
    assert again[2].image == images[2].image


def test_an_empty_or_missing_set_is_an_error(tmp_path: Path, index_folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty holds no images"):
        opened(tmp_path / "empty", index_folder)
    with pytest.raises(DatasetError, match="is no folder"):
        opened(tmp_path / "none", index_folder)


def test_damage_and_the_end_of_an_archive_are_not_the_end_of_a_shard(
    tmp_path: Path, index_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("x", "y"):
        write_set(some_samples(2), tmp_path / name, format="webdataset")
    both = tmp_path / "both.tar"
    both.write_bytes(b"".join((tmp_path / name / "00000.tar").read_bytes() for name in "xy"))
    images = opened(both, index_folder)
    assert [images[index] for index in range(len(images))] == list(read_set(both))
    assert len(images) == 4
    place = damage_header(both, "000000001.png")
    left = opened(both, index_folder)
    assert f"both.tar is damaged at byte {place}" in caplog.text
    assert "the sample 000000001 in the shard" in caplog.text
    kept = [(left[index].key, left[index].picture().getpixel((0, 0))[0]) for index in range(3)]
    assert kept == [("000000000", 0), ("000000000", 0), ("000000001", 1)]
    assert len(left) == 3


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_a_damaged_shard_is_left_out_and_named(
    tmp_path: Path, index_folder: Path, caplog: pytest.LogCaptureFixture, format: str
) -> None:
    folder = tmp_path / "set"
    write_set(some_samples(9), folder, format=format, shard_size=3)
    whole = opened(folder, index_folder)
    keys = [whole[index].key for index in range(9)]
    (damaged,) = folder.glob("00001.[tp]a*[rt]")
    damaged.write_bytes(b"")
    images = opened(folder, index_folder)
    assert [images[index].key for index in range(len(images))] == keys[:3] + keys[6:]
    assert f"{damaged}" in caplog.text and "1 of its 3 shards have no sample" in caplog.text
    assert list(images.shard_sizes) == [3, 0, 3]
