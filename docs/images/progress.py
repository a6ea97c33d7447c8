"""What a run drew while it learned, as one picture: originals, then a row a step.

    python docs/images/progress.py runs/mini/stage1 docs/images/stage1.png 500 1500 4000 10000

Reads the sample pictures that `vlv train` keeps in the run's folder.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vlv.inference.grid import Row, enlarged, picture_grid
from vlv.world.render import IMAGE_SIZE


def strip(path: Path) -> list[list[Image.Image]]:
    """Rows of the run's sample picture, each cut into its pictures."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    rows = np.split(pixels, len(pixels) // IMAGE_SIZE, axis=0)
    return [
        [Image.fromarray(part) for part in np.split(row, row.shape[1] // IMAGE_SIZE, axis=1)]
        for row in rows
    ]


def main() -> None:
    run, out, *steps = sys.argv[1:]
    samples = Path(run) / "samples"
    originals, _ = strip(samples / f"step-{steps[0]}.png")
    rows = [Row("original", originals)]
    for step in steps:
        rows.append(Row(f"step {int(step):,}", strip(samples / f"step-{step}.png")[1]))
    size = enlarged((IMAGE_SIZE, IMAGE_SIZE), 2 * IMAGE_SIZE)
    picture_grid(rows, cell=size).save(out)


if __name__ == "__main__":
    main()
