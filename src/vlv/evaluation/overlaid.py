"""Pictures of scenes with something else over them or around them: what a model of the world must
not judge as if it were a scene. Drawn here, the same each time. Knows no model.
"""

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from vlv.evaluation.ood_pictures import other_pictures

_SIDE = 256
Draw = Callable[[ImageDraw.ImageDraw], None]


def overlaid(scenes: Sequence[Image.Image]) -> dict[str, list[Image.Image]]:
    """Kind -> a picture for each scene.

    Raises:
        ConfigError: scikit-image is not installed, from which the photograph is.
    """
    photograph = other_pictures()["photographs"]["chelsea"].resize((_SIDE, _SIDE))
    large = [scene.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC) for scene in scenes]
    drawn = {name: [_drawn(one, draw) for one in large] for name, draw in _DRAWN.items()}
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


_DRAWN: dict[str, Draw] = {
    "words": _words,
    "a banner": _banner,
    "a sticker": _sticker,
    "marks of a pen": _marks,
    "a frame": _frame,
}


def _drawn(scene: Image.Image, draw: Draw) -> Image.Image:
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
