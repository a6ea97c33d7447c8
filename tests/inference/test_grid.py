"""Grids of pictures: every picture is there at its size, and every text fits."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from vlv.inference.grid import Row, enlarged, fit, picture_grid, wrap

COLORS = [(200, 30, 40), (30, 200, 40), (30, 40, 200)]


def plain(color: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, color)


def box_of(grid: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(grid) == color).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_every_picture_is_shown_at_the_size_of_its_cell() -> None:
    grid = picture_grid([Row("", [plain(color) for color in COLORS])], cell=(48, 32))
    boxes = [box_of(grid, color) for color in COLORS]
    assert all((right - left, low - top) == (48, 32) for left, top, right, low in boxes)
    assert boxes[0][2] < boxes[1][0] and boxes[1][2] < boxes[2][0]
    assert len({box[1] for box in boxes}) == 1


def test_rows_stand_below_each_other_after_their_labels() -> None:
    rows = [Row(f"row {i}\nexplained", [plain(color)]) for i, color in enumerate(COLORS)]
    grid = picture_grid(rows, cell=(32, 32))
    boxes = [box_of(grid, color) for color in COLORS]
    assert boxes[0][3] < boxes[1][1] and boxes[1][3] < boxes[2][1]
    # Something is written to the left of each picture.
    pixels = np.asarray(grid)
    for left, top, _, low in boxes:
        assert (pixels[top:low, : left - 1] < 160).any()
    unlabelled = picture_grid([Row("", [plain(color)]) for color in COLORS], cell=(32, 32))
    assert unlabelled.width < grid.width


def test_texts_stand_below_their_columns_and_none_is_cut_off() -> None:
    texts = ["A short one.", "A red cube stands on the left of a large blue sphere. " * 6]
    pictures = [plain(COLORS[0]), plain(COLORS[1])]
    grid = picture_grid([Row("", pictures)], cell=(160, 160), column_texts=texts)
    ink = (np.asarray(grid) < 160).all(axis=2)
    _, _, _, low = box_of(grid, COLORS[0])
    second_left, _, second_right, _ = box_of(grid, COLORS[1])
    below = ink[low + 2 :]
    assert below[:, :second_left].any() and below[:, second_left:second_right].any()
    assert not below[:, second_right + 2 :].any()  # not beyond the column
    assert not below[-12:].any()  # nor beyond the lower margin


def test_rows_of_different_length_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="equally many"):
        picture_grid([Row("", [plain(COLORS[0])]), Row("", [])], cell=(8, 8))


def test_enlarged_pixels_stay_squares() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    large = fit(Image.fromarray(pixels), (24, 24))
    assert (np.asarray(large)[1::3, 1::3] == pixels).all()
    assert (np.asarray(large) == np.repeat(np.repeat(pixels, 3, 0), 3, 1)).all()
    assert fit(plain(COLORS[0], (100, 70)), (24, 24)).size == (24, 24)


def test_enlarged() -> None:
    assert enlarged((64, 64), 192) == (192, 192)
    assert enlarged((64, 32), 100) == (256, 128)
    assert enlarged((512, 512), 256) == (512, 512)


def test_wrap_keeps_every_word_within_the_width() -> None:
    font = ImageFont.load_default(13)
    text = "A large shiny cylinder stands in the middle of the picture on a gray floor."
    lines = wrap(text, font, 120)
    assert " ".join(lines) == text
    assert len(lines) > 3
    assert all(font.getlength(line) <= 120 for line in lines)
    assert wrap("", font, 120) == []
    assert wrap("Donaudampfschifffahrt ja", font, 20) == ["Donaudampfschifffahrt", "ja"]
