"""The decoder of untrusted images: what it shows, and what it refuses by which name."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vlv.data.images import MAX_FILE_BYTES, REASONS, load_image
from vlv.errors import ImageError

Pixels = NDArray[np.uint8]


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(data: bytes) -> NDArray[np.int64]:
    image = load_image(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int64)


def a_picture(height: int = 24, width: int = 40) -> Pixels:
    """A smooth picture without symmetry: red grows to the right, green downwards."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 255 * columns / width, 255 * rows / height
    return np.stack([red, green, 0.5 * red], axis=-1).astype(np.uint8)


def png(
    width: int, height: int, bits: int, color_type: int, rows: bytes, extra: bytes = b""
) -> bytes:
    """A PNG file made by hand, for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            extra,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


# What a viewer does with stored pixels, by the EXIF standard.
SHOWN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_turns_the_picture_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(a_picture())
    stored = decoded(encoded(picture, format))
    assert np.abs(stored - a_picture()).mean() < 4
    image = load_image(encoded(picture, format, exif=exif))
    np.testing.assert_array_equal(np.asarray(image), SHOWN[orientation](stored))
    assert not image.info


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_impossible_orientations_are_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = a_picture()
    shown = decoded(encoded(Image.fromarray(stored), "PNG", exif=exif))
    np.testing.assert_array_equal(shown, stored)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    stored = a_picture()
    data = encoded(Image.fromarray(stored), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x01")
    np.testing.assert_array_equal(decoded(data), stored)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_laid_over_white(format: str) -> None:
    colors = a_picture()
    alpha = np.linspace(0, 255, colors.shape[1]).astype(np.uint8)
    alpha = np.broadcast_to(alpha, colors.shape[:2])[..., None]
    image = Image.fromarray(np.concatenate([colors, alpha], axis=-1))
    share = alpha / 255.0
    expected = colors * share + 255 * (1 - share)
    shown = decoded(
        encoded(image, format, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    )
    assert np.abs(shown - expected).max() <= 1


def test_alpha_is_laid_over_white_across_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.dstack([a_picture(), np.full((24, 40), 128, np.uint8)]))
    whole = decoded(encoded(image, "PNG"))
    monkeypatch.setattr("vlv.data.images._STRIP_PIXELS", 7 * 40)
    np.testing.assert_array_equal(decoded(encoded(image, "PNG")), whole)


def test_gray_with_alpha() -> None:
    image = Image.new("LA", (2, 1))
    image.putpixel((0, 0), (100, 255))
    image.putpixel((1, 0), (100, 0))
    assert decoded(encoded(image, "PNG")).tolist() == [[[100] * 3, [255] * 3]]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_a_transparent_entry(format: str) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 90, 0])
    image.putdata([0, 1, 2])
    shown = decoded(encoded(image, format, transparency=1))
    assert shown.tolist() == [[[10, 20, 30], [255, 255, 255], [0, 90, 0]]]


def test_palette_with_partial_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 0])
    image.putdata([0, 1])
    shown = decoded(encoded(image, "PNG", transparency=bytes([255, 51])))
    expected = [[0, 0, 0], [200 * 0.2 + 255 * 0.8, 100 * 0.2 + 255 * 0.8, 255 * 0.8]]
    assert np.abs(shown[0] - np.array(expected)).max() <= 1


def test_palette_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.putdata([0, 1])
    assert decoded(encoded(image, "PNG")).tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_rgb_with_a_transparent_color() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (40, 50, 60))
    shown = decoded(encoded(image, "PNG", transparency=(10, 20, 30)))
    assert shown.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_one_bit() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert decoded(encoded(image, "PNG")).tolist() == [[[0] * 3, [255] * 3]]


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    values = np.array([[0, 256, 1000, 32768, 65535]], dtype=np.uint16)
    shown = decoded(encoded(Image.fromarray(values), "PNG"))
    expected = np.round(values / 257)
    np.testing.assert_array_equal(shown, np.repeat(expected[..., None], 3, axis=-1))


def test_sixteen_bit_gray_with_a_transparent_gray() -> None:
    body = struct.pack(">IHI", 2, 1000, zlib.crc32(b"tRNS" + struct.pack(">H", 1000)))
    transparent = body[:4] + b"tRNS" + body[4:]
    rows = b"\x00" + struct.pack(">HH", 1000, 30000)
    shown = decoded(png(2, 1, 16, 0, rows, transparent))
    assert shown.tolist() == [[[255] * 3, [117] * 3]]


def test_sixteen_bit_color_and_alpha() -> None:
    color = (0, 32768, 65535)
    rows = b"\x00" + struct.pack(">HHH", *color)
    assert np.abs(decoded(png(1, 1, 16, 2, rows))[0, 0] - [0, 128, 255]).max() <= 1
    rows = b"\x00" + struct.pack(">HHHH", *color, 0) + struct.pack(">HHHH", *color, 65535)
    shown = decoded(png(2, 1, 16, 6, rows))
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert np.abs(shown[0, 1] - [0, 128, 255]).max() <= 1


@pytest.mark.parametrize(
    ("ink", "color"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk(ink: tuple[int, ...], color: tuple[int, ...]) -> None:
    data = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
    assert np.abs(decoded(data) - np.array(color)).max() <= 2


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_animations(format: str) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue", "green")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert (decoded(data) == [255, 0, 0]).all()


def test_extreme_shapes() -> None:
    strip = Image.fromarray(a_picture(10_000, 1))
    np.testing.assert_array_equal(decoded(encoded(strip, "PNG")), np.asarray(strip))
    assert load_image(encoded(Image.new("RGB", (10_000, 1)), "JPEG")).size == (10_000, 1)


def test_files_and_bytes_are_read_alike(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(a_picture()), "PNG")
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
    "jpeg": encoded(Image.fromarray(a_picture()), "JPEG"),
    "progressive jpeg": encoded(Image.fromarray(a_picture()), "JPEG", progressive=True),
    "png": encoded(Image.fromarray(a_picture()), "PNG"),
    "webp": encoded(Image.fromarray(a_picture()), "WEBP"),
    "gif": encoded(Image.fromarray(a_picture()), "GIF"),
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


def test_malformed_files_are_refused_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    refused = set()
    for data in FILES.values():
        for _ in range(60):
            file = bytearray(data[: rng.integers(1, len(data) + 1)])
            for place in rng.integers(len(file), size=rng.integers(0, 6)):
                file[place] = rng.integers(256)
            try:
                assert load_image(bytes(file)).mode == "RGB"
            except ImageError as error:
                refused.add(error.reason)
    assert {"truncated", "corrupt"} <= refused <= set(REASONS)
