"""The same held-out scenes drawn through both models of `vlv eval decoders`.

    python docs/images/decoders.py

Needs both models (`vlv reproduce --preset decoders/mini` and `--preset decoders/mini-unet`).
"""

from pathlib import Path
from typing import Any

from PIL import Image

from vlv.evaluation.bench import held_out_scenes
from vlv.inference.grid import Row, picture_grid
from vlv.pipeline import VLV

MODELS = {"U-Net": "runs/mini-unet/model/mini", "flow transformer": "runs/mini-sd3/model/mini"}
SCENES = 6
CELL = (96, 96)

if __name__ == "__main__":
    held_out = held_out_scenes(SCENES)
    pictures = [Image.fromarray(render) for render in held_out.renders]
    rows = [Row("original", pictures)]
    how: dict[str, Any] = {"seeds": range(SCENES), "guidance_scale": 3.0, "scheduler": "dpm++sde"}
    for name, folder in MODELS.items():
        model = VLV.from_pretrained(folder)
        rows.append(Row(f"{name}, caption", model.draw(held_out.captions, **how).images))
        rows.append(Row(f"{name}, z", model.reconstruct(pictures, **how).images))
    picture_grid(rows, cell=CELL).save(Path(__file__).with_name("decoders.png"), optimize=True)
