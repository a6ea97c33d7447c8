"""Plain pictures are found, and pictures that look a little like them are not dropped."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from tests.data.curation.planted import WORDS, jpeg, text_picture
from tests.tiny import plain

from vlv.data.curation.information import information_of
from vlv.data.images import load_image
from vlv.world.render import render
from vlv.world.scene import sample_scene

Draw = ImageDraw.ImageDraw


def drawn(
    draw: Callable[[Draw, np.random.Generator], None],
    ground: str = "white",
    size: tuple[int, int] = (800, 800),
) -> Image.Image:
    picture = Image.new("RGB", size, ground)
    draw(ImageDraw.Draw(picture), np.random.default_rng(0))
    return picture


def text(
    size: int = 24,
    lines: int = 14,
    ground: str = "white",
    ink: str = "black",
    canvas: tuple[int, int] = (800, 800),
) -> Image.Image:
    def draw(on: Draw, _: np.random.Generator) -> None:
        for line in range(lines):
            at = line * 31 % 80
            words = WORDS[at : at + int(1.8 * canvas[0] / size)]
            on.text(
                (20, 20 + 1.4 * size * line), words, fill=ink, font=ImageFont.load_default(size)
            )

    return drawn(draw, ground, canvas)


def noise() -> Image.Image:
    values = np.random.default_rng(0).normal(128, 12, (600, 600, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


DROPPED = {
    "white": ("flat", plain("white")),
    "a colour as JPEG": ("flat", load_image(jpeg(Image.new("RGB", (500, 400), (90, 30, 60)), 40))),
    "a gradient": ("flat", Image.linear_gradient("L").resize((700, 500)).convert("RGB")),
    "grain": ("flat", noise()),
    "text": ("text-only", text()),
    "text as JPEG": ("text-only", load_image(jpeg(text_picture(), 60))),
    "light text on a dark ground": ("text-only", text(ground="#141428", ink="#f0dc78")),
    "coloured text as JPEG": (
        "text-only",
        load_image(jpeg(text(ground="#141428", ink="#f0dc78"), 80)),
    ),
    "a page": ("text-only", text(28, 40, canvas=(1200, 1700))),
    "large text": ("text-only", text(48, 6)),
    "two lines": ("text-only", text(40, 2)),
}


def lines(on: Draw, rng: np.random.Generator) -> None:
    for _ in range(40):
        x, y, right, bottom = rng.integers(0, 800, 4).tolist()
        on.line([(x, y), (right, bottom)], fill="black", width=3)


def dots(radius: int | None) -> Callable[[Draw, np.random.Generator], None]:
    def draw(on: Draw, rng: np.random.Generator) -> None:
        for x in range(40, 800, 60):
            for y in range(40, 800, 60):
                on.circle((x, y), radius or int(rng.integers(4, 22)), fill="red")

    return draw


def stars(on: Draw, rng: np.random.Generator) -> None:
    for _ in range(200):
        on.circle(tuple(rng.integers(0, 800, 2).tolist()), int(rng.integers(1, 4)), fill="white")


def bars(on: Draw, rng: np.random.Generator) -> None:
    for x in range(30, 780, 40):
        for y in range(40, 780, 50):
            half = int(rng.integers(4, 16))
            on.rectangle([x - half, y - 10, x + half, y + 10], fill="black")


def chart(on: Draw, rng: np.random.Generator) -> None:
    for at in range(10):
        on.rectangle(
            [50 + 70 * at, 500 - int(rng.integers(20, 400)), 90 + 70 * at, 500], fill="blue"
        )
        label = ImageFont.load_default(16)
        on.text((55 + 70 * at, 520), str(2000 + at), fill="blue", font=label)


def logo(on: Draw, _: np.random.Generator) -> None:
    on.ellipse([100, 100, 700, 600], outline="black", width=30)
    on.text((200, 650), "ACME COMPANY", fill="black", font=ImageFont.load_default(50))


def music(on: Draw, rng: np.random.Generator) -> None:
    for staff in range(80, 700, 140):
        for line in range(5):
            on.line([(40, staff + 12 * line), (760, staff + 12 * line)], fill="black", width=2)
        for x in range(60, 740, 44):
            y = staff + int(rng.integers(0, 48))
            on.ellipse([x, y, x + 14, y + 10], fill="black")
            on.line([(x + 14, y + 5), (x + 14, y - 35)], fill="black", width=2)


def squares() -> Image.Image:
    code = np.random.default_rng(1).integers(0, 2, (29, 29)).astype(np.uint8) * 255
    return Image.fromarray(code).resize((580, 580), Image.Resampling.NEAREST).convert("RGB")


def with_caption() -> Image.Image:
    page = Image.new("RGB", (800, 1000), "white")
    page.paste(Image.fromarray(data.astronaut()).resize((800, 800)))
    ImageDraw.Draw(page).text((20, 850), WORDS[:70], fill="black", font=ImageFont.load_default(20))
    return page


KEPT = {
    "a drawing": lambda: drawn(lines),
    "equal dots": lambda: drawn(dots(12)),
    "dots": lambda: drawn(dots(None)),
    "stars": lambda: drawn(stars, "#050514"),
    "rows of bars": lambda: drawn(bars),
    "a chart with numbers": lambda: drawn(chart),
    "a logo": lambda: drawn(logo),
    "sheet music": lambda: drawn(music),
    "a square code": squares,
    "a bird in fog": lambda: drawn(
        lambda on, _: on.polygon([(400, 300), (430, 310), (460, 295), (432, 325)], "#3c3c3c"),
        "#bec8d2",
    ),
    "the moon": lambda: drawn(lambda on, _: on.circle((400, 200), 20, "#e6e6d2"), "#02020a"),
    "a photograph with a caption": with_caption,
    **{
        name: lambda name=name: Image.fromarray(getattr(data, name)()).convert("RGB")  # type: ignore[misc]
        for name in ("astronaut", "camera", "coins", "moon", "horse", "clock", "chelsea", "coffee")
    },
}


@pytest.mark.parametrize("name", DROPPED)
def test_plain_pictures_are_found(name: str) -> None:
    reason, picture = DROPPED[name]
    found = information_of(picture)
    assert found.reason == reason and found.value


@pytest.mark.parametrize("name", KEPT)
def test_pictures_that_show_something_are_kept(name: str) -> None:
    assert information_of(KEPT[name]()).reason is None
    assert information_of(load_image(jpeg(KEPT[name](), 60))).reason is None


def test_scenes_of_the_world_are_kept() -> None:
    scenes = (Image.fromarray(render(sample_scene(seed, "test"))) for seed in range(60))
    assert all(information_of(scene).reason is None for scene in scenes)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_pictures_of_any_shape_are_judged(size: tuple[int, int]) -> None:
    assert information_of(Image.new("RGB", size, "red")).reason == "flat"
