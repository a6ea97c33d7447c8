"""The same held-out scenes by the renderer of training and in every style of the other one.

python docs/images/renderers.py
"""

from pathlib import Path

from vlv.evaluation.bench import held_out_scenes
from vlv.evaluation.tables.renderer import TRAINED, drawn
from vlv.inference.grid import Row, picture_grid
from vlv.world.other_render import STYLES

SCENES = 5
CELL = (96, 96)

if __name__ == "__main__":
    scenes = held_out_scenes(SCENES + 1).scenes[1:]
    rows = [
        Row(style, [drawn(scene, style, at + 1) for at, scene in enumerate(scenes)])
        for style in (TRAINED, *STYLES)
    ]
    sheet = picture_grid(rows, cell=CELL)
    sheet.save(Path(__file__).with_name("renderers.png"), optimize=True)
