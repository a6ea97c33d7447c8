"""Pictures that are out of distribution for a model of the embedded world, the same each time.

The photographs and scans are those of scikit-image that need no download. The rest is drawn here:
pictures of other things, and scenes with something else over them or around them.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vlv.errors import ConfigError

Named = dict[str, Image.Image]

_PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass"),
    *("gravel", "horse", "hubble_deep_field", "immunohistochemistry", "microaneurysms", "moon"),
    *("page", "retina", "rocket", "text"),
)
_SIDE = 256
Draw = Callable[[ImageDraw.ImageDraw], None]


def other_pictures() -> dict[str, Named]:
    """Pictures of other things: kind -> name -> picture.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    rng = np.random.default_rng(0)
    return {
        "photographs": _photographs(),
        "screens": _screens(),
        "plots": _plots(),
        "drawings": _drawings(),
        "renders": _renders(),
        "noise": _noise(rng),
        "plain": _plain(),
    }


def _photographs() -> Named:
    try:
        from skimage import data
    except ImportError as error:
        raise ConfigError(
            "the photographs come with scikit-image; install it with: pip install scikit-image"
        ) from error
    return {name: _picture(getattr(data, name)()) for name in _PHOTOGRAPHS}


def _picture(values: NDArray[np.generic]) -> Image.Image:
    """Of bytes, or of numbers from 0 to 1."""
    array = np.asarray(values)
    if array.dtype != np.uint8:
        array = (255 * array.astype(np.float64)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(array).convert("RGB")


def _drawn(color: str, draw: Draw) -> Image.Image:
    image = Image.new("RGB", (400, 400), color)
    draw(ImageDraw.Draw(image))
    return image


def _screens() -> Named:
    def mail(pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((0, 0, 400, 40), fill="#2c3e70")
        pen.rectangle((0, 40, 110, 400), fill="#eceef4")
        for row in range(11):
            pen.text((12, 50 + 30 * row), f"Folder {row}", fill="#555555")
            pen.text((125, 50 + 30 * row), f"Message {row}: about the meeting on day {row}")
            pen.line((120, 70 + 30 * row, 395, 70 + 30 * row), fill="#cccccc")

    def terminal(pen: ImageDraw.ImageDraw) -> None:
        for row in range(24):
            pen.text((8, 8 + 16 * row), f"$ process --step {row} --rate {row / 7:.3f}", "#8fdc7c")

    def chat(pen: ImageDraw.ImageDraw) -> None:
        for row in range(6):
            left, color = (20, "#dddddf") if row % 2 else (150, "#3c82fa")
            pen.rounded_rectangle((left, 15 + 64 * row, left + 230, 65 + 64 * row), 18, color)

    def form(pen: ImageDraw.ImageDraw) -> None:
        for row in range(5):
            pen.text((40, 30 + 65 * row), f"Field {row}", fill="black", font_size=18)
            pen.rectangle((40, 55 + 65 * row, 360, 82 + 65 * row), outline="#777777", width=2)
        pen.rounded_rectangle((250, 355, 360, 390), 8, fill="#1e8e5a")

    return {
        "mail": _drawn("white", mail),
        "terminal": _drawn("#15151c", terminal),
        "chat": _drawn("#f4f4f8", chat),
        "form": _drawn("#fafafa", form),
    }


def _plots() -> Named:
    x = np.linspace(0, 1, 120)

    def axes(pen: ImageDraw.ImageDraw) -> None:
        pen.line((40, 20, 40, 360, 385, 360), fill="black", width=2)

    def curves(pen: ImageDraw.ImageDraw) -> None:
        axes(pen)
        for number, color in enumerate(("#1f77b4", "#ff7f0e", "#2ca02c")):
            y = 190 - 110 * np.sin(7 * x + number) * np.exp(-number * x)
            pen.line(list(zip(40 + 340 * x, y, strict=True)), fill=color, width=3)

    def bars(pen: ImageDraw.ImageDraw) -> None:
        axes(pen)
        for number, height in enumerate((120, 250, 90, 300, 180)):
            left = 60 + 64 * number
            pen.rectangle((left, 360 - height, left + 44, 359), fill="#4c78a8")

    def pie(pen: ImageDraw.ImageDraw) -> None:
        start = 0
        for share, color in zip(
            (100, 70, 50, 140), ("tomato", "gold", "skyblue", "plum"), strict=True
        ):
            pen.pieslice((40, 40, 360, 360), start, start + share, fill=color)
            start += share

    def points(pen: ImageDraw.ImageDraw) -> None:
        axes(pen)
        for left, top in np.random.default_rng(1).normal(200, 60, (250, 2)):
            pen.ellipse((left - 4, top - 4, left + 4, top + 4), fill="#c44e52")

    return {
        name: _drawn("white", draw)
        for name, draw in {"curves": curves, "bars": bars, "pie": pie, "points": points}.items()
    }


def _drawings() -> Named:
    def house(pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((0, 270, 400, 400), fill="#5db04a")
        pen.rectangle((120, 160, 280, 300), fill="#dcb478")
        pen.polygon([(100, 160), (200, 80), (300, 160)], fill="#b43228")
        pen.ellipse((310, 30, 370, 90), fill="#ffe63c")

    def face(pen: ImageDraw.ImageDraw) -> None:
        pen.ellipse((60, 60, 340, 340), fill="#ffcc4d", outline="black", width=6)
        for left in (135, 230):
            pen.ellipse((left, 140, left + 35, 190), fill="black")
        pen.arc((130, 170, 270, 280), 20, 160, fill="black", width=8)

    def flag(pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((0, 0, 133, 400), fill="#0055a4")
        pen.rectangle((266, 0, 400, 400), fill="#ef4135")

    def shapes(pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((80, 200, 170, 290), fill="red")
        pen.ellipse((230, 190, 330, 290), fill="blue")

    def words(pen: ImageDraw.ImageDraw) -> None:
        for row, word in enumerate(("THE", "QUICK", "FOX")):
            pen.text((40, 40 + 110 * row), word, fill="black", font_size=90)

    def tree(pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((180, 230, 220, 380), fill="#7a4a21")
        for left, top in ((100, 120), (180, 90), (140, 50), (200, 150)):
            pen.ellipse((left, top, left + 120, top + 110), fill="#2f8f3a")

    return {
        "house": _drawn("#82c8fa", house),
        "face": _drawn("white", face),
        "flag": _drawn("white", flag),
        "flat shapes": _drawn("gray", shapes),
        "words": _drawn("white", words),
        "tree": _drawn("#cfe8ff", tree),
    }


def _renders() -> Named:
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    radius = x**2 + y**2
    point, steps = np.zeros_like(x, dtype=complex), np.zeros_like(x)
    for _ in range(40):
        inside = abs(point) < 2
        steps += inside
        point = np.where(inside, point**2 + 1.4 * x - 0.6 + 1.2j * y, point)
    light = np.maximum(0, (np.sqrt(np.maximum(0, 0.5 - radius)) - 0.5 * x - 0.6 * y) / 0.8)
    planet = light * (radius < 0.5)
    depth = y + 1.2
    board = (np.floor(8 * x / depth) + np.floor(8 / depth)) % 2
    return {
        "fractal": _picture(np.stack([steps / 40, steps / 80, 1 - steps / 40], axis=2)),
        "planet": _picture(np.stack([planet, 0.7 * planet, 0.4 * planet], axis=2)),
        "chessboard": _picture(0.1 + 0.8 * board),
        "rings": _picture(np.sin(40 * np.sqrt(radius)) / 2 + 0.5),
        "stripes": _picture((np.sin(30 * (x + y)) > 0) * 0.7 + 0.1),
    }


def _noise(rng: np.random.Generator) -> Named:
    spectrum = np.fft.rfft2(rng.standard_normal((_SIDE, _SIDE, 3)), axes=(0, 1))
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None])
    frequency[0, 0] = 1
    pink = np.fft.irfft2(spectrum / frequency[..., None], axes=(0, 1))
    big = (_SIDE, _SIDE)
    return {
        "uniform": _picture(rng.random((_SIDE, _SIDE, 3))),
        "gray": _picture(0.5 + 0.15 * rng.standard_normal(big)),
        "pink": _picture(0.5 + 0.2 * pink / pink.std()),
        "salt and pepper": _picture(rng.integers(0, 2, big).astype(float)),
        "coarse": _picture(rng.random((8, 8, 3))).resize(big),
        "smooth": _picture(rng.random((4, 4, 3))).resize(big, Image.Resampling.BICUBIC),
    }


def _plain() -> Named:
    ramp = np.linspace(0, 1, _SIDE)[None].repeat(_SIDE, axis=0)
    sky = np.stack([0.6 * ramp.T, 0.7 * ramp.T, 1 - 0.3 * ramp.T], axis=2)
    flat = {
        color: Image.new("RGB", (_SIDE, _SIDE), color)
        for color in ("white", "black", "gray", "red", "teal")
    }
    return {
        **flat,
        "to the right": _picture(ramp),
        "downwards": _picture(ramp.T),
        "sky": _picture(sky),
    }


def overlaid(scenes: Sequence[Image.Image]) -> dict[str, list[Image.Image]]:
    """Scenes with something else over them or around them: kind -> a picture for each scene.

    Raises:
        ConfigError: scikit-image is not installed, from which the photograph is.
    """
    photograph = other_pictures()["photographs"]["chelsea"].resize((_SIDE, _SIDE))
    large = [scene.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC) for scene in scenes]
    drawn = {name: [_drawn_over(one, draw) for one in large] for name, draw in _OVERLAYS.items()}
    return {
        **drawn,
        "a photograph in a quarter": [_with_part(one, photograph) for one in large],
        "half a photograph": [Image.blend(one, photograph, 0.5) for one in large],
        "two scenes side by side": [
            _side_by_side(one, other)
            for one, other in zip(large, large[1:] + large[:1], strict=True)
        ],
        "white at the sides": [_between_white(one) for one in large],
    }


def _words(pen: ImageDraw.ImageDraw) -> None:
    pen.text((20, 90), "SALE 50%", "white", ImageFont.load_default(44))


def _banner(pen: ImageDraw.ImageDraw) -> None:
    pen.rectangle((0, 190, _SIDE, _SIDE), "black")
    pen.text((10, 205), "BREAKING NEWS", "white", ImageFont.load_default(26))


def _sticker(pen: ImageDraw.ImageDraw) -> None:
    pen.ellipse((150, 20, 240, 110), "#ffcc4d", "black", 4)
    for left in (170, 205):
        pen.ellipse((left, 45, left + 15, 65), "black")


def _marks(pen: ImageDraw.ImageDraw) -> None:
    pen.line((20, 20, 200, 200), "red", 8)
    pen.rectangle((60, 60, 180, 180), None, "lime", 5)


def _frame(pen: ImageDraw.ImageDraw) -> None:
    pen.rectangle((0, 0, _SIDE - 1, _SIDE - 1), None, "red", 20)


_OVERLAYS: dict[str, Draw] = {
    "words": _words,
    "a banner": _banner,
    "a sticker": _sticker,
    "marks of a pen": _marks,
    "a frame": _frame,
}


def _drawn_over(scene: Image.Image, draw: Draw) -> Image.Image:
    made = scene.copy()
    draw(ImageDraw.Draw(made))
    return made


def _with_part(scene: Image.Image, other: Image.Image) -> Image.Image:
    made = scene.copy()
    made.paste(other.resize((_SIDE // 2, _SIDE // 2)), (20, 60))
    return made


def _side_by_side(one: Image.Image, other: Image.Image) -> Image.Image:
    made = Image.new("RGB", (_SIDE, _SIDE))
    made.paste(one.resize((_SIDE // 2, _SIDE)), (0, 0))
    made.paste(other.resize((_SIDE // 2, _SIDE)), (_SIDE // 2, 0))
    return made


def _between_white(scene: Image.Image) -> Image.Image:
    made = Image.new("RGB", (_SIDE + 144, _SIDE), "white")
    made.paste(scene, (72, 0))
    return made
