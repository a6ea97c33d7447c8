"""The decoder of untrusted images: what it shows, and what it refuses by which name."""

import io
import os
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.data.golden import GOLDENS, Golden, encoded, png, smooth, tags_of, tiff
from tests.data.heif import SMOOTH, tiled

from vlv.data.images import MAX_FILE_BYTES, REASONS, load_image
from vlv.errors import ConfigError, ImageError
from vlv.pixels import picture_of


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


def test_heif_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'vlv\[heif\]'") as caught:
        load_image(SMOOTH)
    assert caught.value.reason == "unknown-format"


def test_heif_of_tiles() -> None:
    whole = decoded(tiled(700, 600))
    assert whole.shape == (600, 700, 3)
    assert np.abs(whole[:512, :512] - smooth(512, 512)).max() <= 16  # its losses
    np.testing.assert_array_equal(whole[512:, :188], whole[:88, :188])


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
    monkeypatch.setattr("vlv.pixels._STRIP_PIXELS", 7 * 40)
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


@pytest.mark.parametrize("source", [None, 3, ["a.png"], Image.new("L", (1, 1))])
def test_what_is_no_file_is_named(source: object) -> None:
    kind = type(source).__name__
    with pytest.raises(ConfigError, match=f"the bytes of its file or the open file, not {kind}"):
        load_image(source)  # type: ignore[arg-type]


def test_bytes_and_open_files_are_read_as_paths_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3), (200, 10, 60)).save(path)
    data = path.read_bytes()
    with path.open("rb") as file, path.open(encoding="latin-1") as text:
        for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), file):
            assert load_image(source).getpixel((0, 0)) == (200, 10, 60)
        with pytest.raises(ConfigError, match='open it with mode "rb"'):
            load_image(text)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="is empty"):
        load_image(io.BytesIO())
    with pytest.raises(ImageError, match=r"cannot be read \(read of closed file\)"):
        load_image(file)
    with pytest.raises(ImageError, match=r"^https://a.test/b.png cannot be read"):
        load_image("https://a.test/b.png")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    assert reason(tmp_path / "missing.png") == "unreadable"
    with pytest.raises(
        ImageError, match=r"missing\.png cannot be read \(No such file or directory\)$"
    ):
        load_image(tmp_path / "missing.png")
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


@pytest.mark.parametrize("format", ["PPM", "EPS", "ICO", "TGA", "PCX", "PDF", "DDS", "JPEG2000"])
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


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_the_cap_is_a_parameter(format: str) -> None:
    data = encoded(Image.new("RGB", (40, 30)), format)
    assert load_image(data, max_pixels=1200).size == (40, 30)
    with pytest.raises(ImageError, match=r"more than 0\.001199 megapixels") as refusal:
        load_image(data, max_pixels=1199)
    assert refusal.value.reason == "too-many-pixels"


def test_more_pixels_than_pillow_takes_for_a_bomb() -> None:
    header = png(200_000_000, 1, 1, 0, b"")
    assert reason(header) == "too-many-pixels"
    with pytest.raises(ImageError) as refusal:
        load_image(header, max_pixels=200_000_000)
    assert refusal.value.reason == "corrupt"  # there is nothing behind the header


def test_just_below_the_pixel_cap() -> None:
    data = encoded(Image.new("1", (50_000_000, 1)), "PNG")
    assert load_image(data).size == (50_000_000, 1)


FILES = {
    "jpeg": encoded(Image.fromarray(smooth()), "JPEG"),
    "progressive jpeg": encoded(Image.fromarray(smooth()), "JPEG", progressive=True),
    "png": encoded(Image.fromarray(smooth()), "PNG"),
    "webp": encoded(Image.fromarray(smooth()), "WEBP"),
    "gif": encoded(Image.fromarray(smooth()), "GIF"),
    "bmp": encoded(Image.fromarray(smooth()), "BMP"),
    "tiff": encoded(Image.fromarray(smooth()), "TIFF", compression="tiff_lzw"),
    "avif": encoded(Image.fromarray(smooth()), "AVIF"),
    "heif": SMOOTH,
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


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str
)
def test_a_jpeg_may_lack_its_end_but_no_rows(options: dict[str, bool]) -> None:
    rough = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    image = Image.fromarray(rough).resize((256, 192))
    data = encoded(image, "JPEG", **options)
    whole = decoded(data)
    ends = (data[:-2], data[:-1], data[:-2] + bytes(100), data[:-2] + b"words", data + b"words")
    for end in ends:
        np.testing.assert_array_equal(decoded(end), whole)
    # Some bytes less: only the right half of the last row of blocks may differ.
    few = decoded(data[:-6])
    np.testing.assert_array_equal(few[:174], whole[:174])
    np.testing.assert_array_equal(few[:, :126], whole[:, :126])
    start = data.index(b"\xff\xda")
    for end in range(start, len(data) - 400, 101):
        assert reason(data[:end]) == "truncated"


def test_a_progressive_jpeg_without_its_last_scans_is_truncated() -> None:
    data = encoded(Image.fromarray(smooth()), "JPEG", progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 5
    for place in scans[1:]:
        # Where a scan ends and the tables of the next begin.
        end = data.rfind(b"\xff\xc4", 0, place)
        assert reason(data[:end]) == "truncated"


RAW_FILES = {
    "preview": tiff(tags_of(smooth(), 8, 2) | {254: (1,), 330: (8, 8)}, smooth().tobytes()),
    "DNG": tiff(tags_of(smooth(), 8, 2) | {50706: bytes([1, 4, 0, 0])}, smooth().tobytes()),
    "CR2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(4) + struct.pack("<H", 0) + bytes(90),
}


@pytest.mark.parametrize("name", RAW_FILES)
def test_raw_files_of_cameras_are_not_taken_for_their_previews(name: str) -> None:
    with pytest.raises(ImageError, match="camera's raw file") as refusal:
        load_image(RAW_FILES[name])
    assert refusal.value.reason == "unknown-format"


def test_tiles_larger_than_the_picture_are_refused() -> None:
    tags = tags_of(smooth(), 8, 2) | {322: (1 << 20,), 323: (1 << 20,)}
    assert reason(tiff(tags, smooth().tobytes())) == "corrupt"


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "HEIF", "BMP"])
def test_nothing_is_printed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = SMOOTH if name == "HEIF" else encoded(Image.fromarray(smooth()), name)
    rng = np.random.default_rng(0)
    for place in rng.integers(12, len(data), 60):
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        try:
            load_image(bytes(damaged))
        except ImageError as error:
            assert error.reason in REASONS
    assert capfd.readouterr() == ("", "")


def test_pil_images_are_shown_as_files_are() -> None:
    for name, data, _ in GOLDENS:
        if name != "HEIF" and "frames" not in name and "canvas" not in name:
            opened = Image.open(io.BytesIO(data))
            shown = np.asarray(picture_of(opened)).astype(np.int64)
            if name not in PILLOW_READS_OTHERWISE:
                assert np.abs(shown - decoded(data)).max() <= 1, name


def test_pil_images_that_do_not_decode_are_refused_as_files_are() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    with pytest.raises(ImageError, match="truncated") as caught:
        picture_of(Image.open(io.BytesIO(data[: len(data) // 2])))
    assert caught.value.reason == "corrupt"
    closed = Image.open(io.BytesIO(data))
    closed.close()
    with pytest.raises(ImageError, match="closed"):
        picture_of(closed)
    with pytest.raises(ImageError, match="no pixels"):
        picture_of(Image.new("RGB", (0, 4)))


# What Pillow does not say of a file, or says too late.
PILLOW_READS_OTHERWISE = {
    "gray of 2 bits with a transparent gray",
    "gray of 4 bits with a transparent gray",
    "RGB of 16 bits with a transparent colour",
    "TIFF gray of 16 bits, 0 is white",
    "cICP of Display P3",
}


# A white of each mode of PIL images; transparent ones are of any colour.
WHITES: dict[str, object] = {
    **{"1": 1, "L": 255, "LA": (0, 0), "La": (0, 0), "RGB": (255, 255, 255), "RGBA": (9, 9, 9, 0)},
    **{"RGBa": (0, 0, 0, 0), "RGBX": (255, 255, 255, 0), "CMYK": (0, 0, 0, 0)},
    **{"LAB": (255, 128, 128), "YCbCr": (255, 128, 128), "HSV": (0, 0, 255)},
    **{"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I": 65535, "F": 1.0},
}


@pytest.mark.parametrize("mode", WHITES)
def test_every_mode_of_pil_images_is_shown(mode: str) -> None:
    picture = picture_of(Image.new(mode, (5, 4), WHITES[mode]))  # type: ignore[arg-type]
    assert picture.mode == "RGB"
    assert min(low for low, _ in picture.getextrema()) >= 254


def test_transparent_pil_images_are_laid_over_white() -> None:
    image = Image.new("P", (5, 4), 3)
    image.putpalette([0, 0, 0] * 16)
    image.info["transparency"] = 3
    assert picture_of(image).getextrema() == ((255, 255),) * 3
