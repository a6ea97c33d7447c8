"""Sets that are to get new captions: an odd sample costs itself alone, an old caption nothing."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.odd_shards import GOOD, ODD, member, odd_shard, png

from vlv.data.lenient import Unusable
from vlv.data.recaptioning import recaptioned
from vlv.data.samples import Sample
from vlv.data.sets import read_set
from vlv.errors import DatasetError


def read(path: Path) -> tuple[list[str], list[str]]:
    """Keys of pictures, and names of what is refused."""
    found = list(recaptioned(path))
    return (
        [one.key for one in found if isinstance(one, Sample)],
        [one.name for one in found if isinstance(one, Unusable)],
    )


@pytest.mark.parametrize("what", ODD)
def test_an_odd_member_costs_itself_alone(tmp_path: Path, what: str) -> None:
    keys, refused = read(odd_shard(tmp_path / "odd.tar", what))
    name = ODD[what][1]
    assert {"a", "z"} <= set(keys)
    assert refused == ([] if name is None else [name])


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"", "is empty"), (b"\x1f\x8b" + b"1" * 2000, "is compressed"), (b"x" * 2048, "byte 0")],
)
def test_what_is_no_archive_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    (only,) = recaptioned(tmp_path / "a.tar")
    assert isinstance(only, Unusable)
    assert problem in only.message


def test_members_need_not_lie_side_by_side(tmp_path: Path) -> None:
    parts = [member("b.txt", b"Old."), GOOD, member("b.png", png(1)), member("m.txt", b"Older.")]
    (tmp_path / "a.tar").write_bytes(b"".join(parts) + b"\0" * 1024)
    found = {one.key: one.caption for one in recaptioned(tmp_path / "a.tar")}  # type: ignore[union-attr]
    assert found == {"b": "Old.", "m": "Older."}


def test_old_captions_go_by_other_names(tmp_path: Path) -> None:
    parts = [GOOD, member("m.json", b'{"caption": "old", "texts": ["old", "older"], "url": "u"}')]
    (tmp_path / "a.tar").write_bytes(b"".join(parts) + b"\0" * 1024)
    (sample,) = recaptioned(tmp_path / "a.tar")
    assert isinstance(sample, Sample)
    assert sample.meta == {"source_caption": "old", "source_texts": ["old", "older"], "url": "u"}


def test_for_training_unreadable_captions_are_named(tmp_path: Path) -> None:
    for what in ("no JSON", "a caption that is no text"):
        with pytest.raises(DatasetError, match=r"m\.(json|txt) in the shard"):
            list(read_set(odd_shard(tmp_path / "odd.tar", what)))
    with pytest.raises(DatasetError, match="10000 long headers"):
        list(read_set(odd_shard(tmp_path / "odd.tar", "ten thousand long names")))


IMAGES = [png(number) for number in range(3)]
INVALID = pa.StringArray.from_buffers(3, *pa.array([b"\xff", b"ok", b"\xfe"]).buffers()[1:])
TABLES: dict[str, tuple[dict[str, pa.Array], int]] = {
    "large types": ({"image": pa.array(IMAGES, pa.large_binary())}, 3),
    "dictionaries": ({"image": pa.array(IMAGES).dictionary_encode()}, 3),
    "views": ({"image": pa.array(IMAGES, pa.binary_view())}, 3),
    "a hole": ({"image": pa.array([{"bytes": IMAGES[0]}, None, {"bytes": IMAGES[2]}])}, 2),
    "texts": ({"image": pa.array(["x", "y", "z"])}, 0),
    "paths alone": ({"image": pa.array([{"path": "x.png"}] * 3)}, 0),
    "numbers for paths": (
        {"image": pa.array([{"bytes": one, "path": 1} for one in IMAGES])},
        3,
    ),
    "paths elsewhere": (
        {
            "image": pa.array(
                [
                    {"bytes": one, "path": path}
                    for one, path in zip(IMAGES, ("/a/x.png", "../y.png", "\0"), strict=True)
                ]
            )
        },
        3,
    ),
    "lists of captions": (
        {"image": pa.array(IMAGES), "caption": pa.array([["a", "b"]] * 3)},
        3,
    ),
    "text that is not UTF-8": (
        {
            "image": pa.StructArray.from_arrays([pa.array(IMAGES), INVALID], ["bytes", "path"]),
            "caption": INVALID,
            "meta": INVALID,
        },
        3,
    ),
    "nothing": ({"image": pa.array([], pa.binary())}, 0),
}


@pytest.mark.parametrize("what", TABLES)
def test_tables_of_every_make(tmp_path: Path, what: str) -> None:
    columns, good = TABLES[what]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    keys, refused = read(path)
    assert len(set(keys)) == good
    assert len(keys) + len(refused) == len(columns["image"])


def test_a_damaged_row_group_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    noise = [bytes(range(256)) * 40 for _ in range(3)]
    table = pa.table({"image": pa.array(noise)})
    pq.write_table(table, path, row_group_size=1, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    keys, refused = read(path)
    assert (keys, refused) == (["t-000000", "t-000002"], ["t-000001"])


def test_vlv_caption_of_sets_with_odd_samples(vlv: Callable, tmp_path: Path) -> None:
    odd = ["a NUL in a name", "half surrogates"]
    shards = [odd_shard(tmp_path / f"{number}.tar", what) for number, what in enumerate(odd)]
    ran = vlv("caption", *shards, "--json", "--num-beams", "1", "--max-new-tokens", "4")
    assert ran.code == 1
    assert ran.out.count('"text"') == 5
    assert "bad-sample: m\\x00x.png in the shard" in ran.err
