"""The authors' tables, which hold pixels in place of files: read wherever sets are read."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vlv.data.image_sets import open_image_set
from vlv.data.lenient import Unusable
from vlv.data.remote.samples import lenient_samples
from vlv.data.samples import Sample
from vlv.data.sets import read_set
from vlv.data.stored_pixels import png_of
from vlv.errors import DatasetError
from vlv.training.samples.captions import CaptionChoice
from vlv.training.samples.images import SetStore

SIDE = 384


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """Three pictures (3,3,384,384) of smooth colours with noise."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 200, SIDE)[None, None, :, None] + np.zeros((3, 3, 1, SIDE))
    noisy = ramp + random.integers(0, 56, size=(3, 3, SIDE, SIDE))
    return noisy.astype(np.uint8)


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def nested(pixels: NDArray[np.uint8]) -> pa.Array:
    """Nested lists, as `datasets.Array3D` stores them."""
    array: Any = pa.array(pixels.reshape(-1))
    for length in pixels.shape[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, int(length))
    return array


def large_lists(pixels: NDArray[np.uint8]) -> pa.Array:
    """As Polars writes lists."""
    array: Any = pa.array(pixels.reshape(-1))
    for length in pixels.shape[:0:-1]:
        ends = pa.array(np.arange(0, len(array) + 1, length, dtype=np.int64))
        array = pa.LargeListArray.from_arrays(ends, array)
    return array


LAYOUTS: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "raw": lambda pixels: [one.tobytes() for one in pixels],
    "npy": lambda pixels: [npy(one) for one in pixels],
    "npy with channels last": lambda pixels: [npy(one.transpose(1, 2, 0)) for one in pixels],
    "struct of raw": lambda pixels: [{"bytes": one.tobytes()} for one in pixels],
    "lists": nested,
    "large lists": large_lists,
    "flat lists": lambda pixels: nested(pixels.reshape(3, -1)),
}


def authors_table(path: Path, images: Any) -> Path:
    captions = [f"Picture {number}." for number in range(len(images))]
    pq.write_table(pa.table({"image": images, "caption": captions}), path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_of_a_table_are_those_of_a_png(
    tmp_path: Path, pixels: NDArray[np.uint8], layout: str
) -> None:
    table = authors_table(tmp_path / "part.parquet", LAYOUTS[layout](pixels))
    by_number = open_image_set(table, index_folder=tmp_path)
    found = (
        list(read_set(table)),
        [by_number[at] for at in range(3)],
        list(lenient_samples(table)),
    )
    for samples in found:
        for sample, expected in zip(samples, pixels, strict=True):
            assert isinstance(sample, Sample)
            assert sample.extension == ".png"
            assert np.array_equal(np.asarray(sample.picture()), expected.transpose(1, 2, 0))
        assert [sample.caption for sample in samples] == [f"Picture {at}." for at in range(3)]  # type: ignore[union-attr]


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self._path),)


def test_arrays_that_are_no_image_are_named_and_run_nothing(tmp_path: Path) -> None:
    objects = np.empty(2, dtype=object)
    objects[:] = [Bomb(tmp_path / "bomb"), None]
    header = npy(np.zeros((3, 4, 4), np.uint8))
    cells = [
        _object_npy(objects),
        npy(np.zeros((3, 4, 4), np.float32)),
        npy(np.zeros((2, 2, 2, 2), np.uint8)),
        header[:-1],
        header.replace(b"(3, 4, 4)", b"(9**9,4)"),
        header[:8],
    ]
    table = authors_table(tmp_path / "part.parquet", cells)
    found = list(lenient_samples(table))
    assert len(found) == len(cells)
    assert all(isinstance(one, Unusable) for one in found)
    assert not (tmp_path / "bomb").exists()
    with pytest.raises(DatasetError, match=r"row 0 of .*Python objects"):
        next(read_set(table))


def _object_npy(objects: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(objects))
    return file.getvalue() + pickle.dumps(objects)


def test_a_jpeg_of_as_many_bytes_stays_a_jpeg(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 200)).save(file, "JPEG")
    jpeg = file.getvalue()
    comment = 3 * SIDE * SIDE - len(jpeg)
    padding = b"".join(b"\xff\xfe\xff\xff" + bytes(0xFFFD) for _ in range(comment // 0x10001))
    rest = comment - len(padding)
    padding += b"\xff\xfe" + (rest - 2).to_bytes(2, "big") + bytes(rest - 4)
    image = jpeg[:2] + padding + jpeg[2:]
    assert len(image) == 3 * SIDE * SIDE
    (sample,) = read_set(authors_table(tmp_path / "part.parquet", [image]))
    assert sample.image == image
    assert sample.extension == ".jpg"


@pytest.fixture
def twice(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    """A table of raw pixels and of the PNG of the same picture."""
    return authors_table(tmp_path / "part.parquet", [pixels[0].tobytes(), png_of(pixels[0])])


def test_training_sees_the_pixels_of_a_png(
    tmp_path: Path, twice: Path, pixels: NDArray[np.uint8]
) -> None:
    images = open_image_set(twice, index_folder=tmp_path)
    store = SetStore(images, 2, SIDE, CaptionChoice(joined=False), captioned=True)
    of_raw, of_png = store.view(0), store.view(1)
    assert torch.equal(of_raw.item["image"], of_png.item["image"])
    assert of_raw.item["image"].numpy().tobytes() == pixels[0].transpose(1, 2, 0).tobytes()


@pytest.mark.slow
def test_bulk_captions_the_pixels_of_a_png(vlv: Callable, tmp_path: Path, twice: Path) -> None:
    flags = ("--num-beams", 1, "--max-new-tokens", 8, "--min-new-tokens", 1)
    ran = vlv("bulk", twice, tmp_path / "out", *flags)
    assert ran.code == 0, ran.err
    lines = (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["text"] for line in lines)
    assert first == second
