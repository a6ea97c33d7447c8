"""The decoder of untrusted images: what it shows, and what it refuses by which name."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.data.golden import GOLDENS, Golden, encoded, png, smooth

from vlv.data.images import MAX_FILE_BYTES, REASONS, load_image
from vlv.errors import ImageError


def decoded(data: bytes) -> NDArray[np.int64]:
    image = load_image(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int64)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden[0])
def test_golden_images(golden: Golden) -> None:
    _, data, shown = golden
    image = load_image(data)
    assert not image.info
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(np.float64) - shown).max() <= 2


def test_heif_with_its_extra_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")

    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(smooth())).save(file, quality=-1, chroma=444)
    assert np.abs(decoded(file.getvalue()) - smooth()).max() <= 2
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'vlv\[heif\]'") as caught:
        load_image(file.getvalue())
    assert caught.value.reason == "unknown-format"


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_impossible_orientations_are_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = smooth()
    shown = decoded(encoded(Image.fromarray(stored), "PNG", exif=exif))
    np.testing.assert_array_equal(shown, stored)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    stored = smooth()
    data = encoded(Image.fromarray(stored), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x01")
    np.testing.assert_array_equal(decoded(data), stored)


def test_alpha_is_laid_over_white_across_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.dstack([smooth(), np.full((24, 40), 128, np.uint8)]))
    whole = decoded(encoded(image, "PNG"))
    monkeypatch.setattr("vlv.data.images._STRIP_PIXELS", 7 * 40)
    np.testing.assert_array_equal(decoded(encoded(image, "PNG")), whole)


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    values = np.array([[0, 256, 1000, 32768, 65535]], dtype=np.uint16)
    shown = decoded(encoded(Image.fromarray(values), "PNG"))
    expected = np.round(values / 257)
    np.testing.assert_array_equal(shown, np.repeat(expected[..., None], 3, axis=-1))


def test_files_and_bytes_are_read_alike(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(smooth()), "PNG")
    path = tmp_path / "no extension is needed"
    path.write_bytes(data)
    np.testing.assert_array_equal(decoded(data), np.asarray(load_image(path)))
    np.testing.assert_array_equal(decoded(data), np.asarray(load_image(str(path))))


def reason(source: object) -> str:
    with pytest.raises(ImageError) as refusal:
        load_image(source)  # type: ignore[arg-type]
    assert refusal.value.reason in REASONS
    if isinstance(source, Path):
        assert str(source) in str(refusal.value)
    return refusal.value.reason


def test_what_cannot_be_read(tmp_path: Path) -> None:
    assert reason(tmp_path / "missing.png") == "unreadable"
    assert reason(tmp_path) == "unreadable"
    assert reason("bad\0name.png") == "unreadable"
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert reason(pipe) == "unreadable"


def test_empty_and_too_large_files(tmp_path: Path) -> None:
    empty, huge = tmp_path / "empty.png", tmp_path / "huge.png"
    empty.touch()
    with open(huge, "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert reason(empty) == "empty"
    assert reason(b"") == "empty"
    assert reason(huge) == "too-large-file"


@pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "EPS", "ICO", "TGA", "PCX", "PDF"])
def test_formats_off_the_list_are_refused(format: str) -> None:
    assert reason(encoded(Image.new("RGB", (16, 16)), format)) == "unknown-format"


@pytest.mark.parametrize(
    "data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"text", b"\0" * 99]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert reason(data) == "unknown-format"


@pytest.mark.parametrize(
    ("width", "height"), [(7072, 7072), (50_000_001, 1), (2**31 - 1, 2**31 - 1)]
)
def test_the_pixel_cap_is_checked_from_the_header(width: int, height: int) -> None:
    # There are no pixels behind this header: only a decoder that stops there can name the reason.
    assert reason(png(width, height, 8, 2, b"")) == "too-many-pixels"


def test_just_below_the_pixel_cap() -> None:
    data = encoded(Image.new("1", (50_000_000, 1)), "PNG")
    assert load_image(data).size == (50_000_000, 1)


FILES = {
    "jpeg": encoded(Image.fromarray(smooth()), "JPEG"),
    "progressive jpeg": encoded(Image.fromarray(smooth()), "JPEG", progressive=True),
    "png": encoded(Image.fromarray(smooth()), "PNG"),
    "webp": encoded(Image.fromarray(smooth()), "WEBP"),
    "gif": encoded(Image.fromarray(smooth()), "GIF"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_truncation_is_named(name: str, share: float) -> None:
    data = FILES[name]
    assert reason(data[: int(len(data) * share)]) == "truncated"


def test_corruption_is_named() -> None:
    png_file = bytearray(FILES["png"])
    png_file[60] ^= 0xFF
    assert reason(bytes(png_file)) == "corrupt"
    assert reason(b"\x89PNG\r\n\x1a\n" + b"\0" * 40 + b"IEND\xaeB`\x82") == "corrupt"
