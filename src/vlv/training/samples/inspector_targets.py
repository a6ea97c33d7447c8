"""What the inspector should report of a scene: targets. And its pictures as decoders draw them.

Knows scenes; knows nothing of data sets, and not how wrong an output is.

Shapes: B batch, G side of the inspector's grid (16).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlv.world.inspector import STRIDE
from vlv.world.render import IMAGE_SIZE, project
from vlv.world.scene import COLORS, FLOORS, LIGHTS, MATERIALS, SHAPES, SIZES, Scene

GRID = IMAGE_SIZE // STRIDE
WORDS = {"shape": SHAPES, "color": COLORS, "size": SIZES, "material": MATERIALS}
# Spread of an object's heat in cells. Objects are at least three cells wide.
_SPREAD = 0.8
# Cells from which an object's facts are learned: those with at least this much of its heat. The
# highest cell of a predicted heat map may be a neighbour of the true one.
_NEAR = 0.25


def scene_targets(scene: Scene) -> dict[str, Tensor]:
    """Targets of one scene, without the batch dimension of `targets`."""
    centres = project(
        np.array([[x, obj.radius, z] for obj in scene.objects for x, z in [obj.floor_position]])
    )
    cells = torch.from_numpy(centres / STRIDE - 0.5).float()  # (N, 2): column, row in cells
    steps = torch.arange(GRID, dtype=torch.float32)
    where = torch.stack([steps.expand(GRID, GRID), steps[:, None].expand(GRID, GRID)])
    to_centre = cells[:, :, None, None] - where  # (N, 2, G, G)
    # The heat is centred on the nearest cell, so that exactly one cell is a full hit.
    to_peak = cells.round().clamp(0, GRID - 1)[:, :, None, None] - where
    spread = torch.exp(-to_peak.square().sum(1) / (2 * _SPREAD**2))  # (N, G, G)
    heat, owner = spread.max(dim=0)
    facts = {
        name: torch.tensor([words.index(getattr(obj, name)) for obj in scene.objects])[owner]
        for name, words in WORDS.items()
    }
    place = torch.tensor([(obj.x, obj.z) for obj in scene.objects])
    turn = torch.tensor(
        [(math.cos(4 * obj.rotation), math.sin(4 * obj.rotation)) for obj in scene.objects]
    )
    return {
        "heat": heat,
        "weight": torch.where(heat >= _NEAR, heat, 0.0),
        **facts,
        "offset": to_centre.gather(0, owner[None, None].expand(1, 2, GRID, GRID))[0],
        "place": place[owner].permute(2, 0, 1),
        "rotation": turn[owner].permute(2, 0, 1),
        "floor": torch.tensor(FLOORS.index(scene.floor)),
        "light": torch.tensor(LIGHTS.index(scene.light)),
    }


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """What `Inspector.forward` should report of the scenes' pictures.

    `heat` and `weight` (B, G, G) in [0, 1]: where centres are, and how much a cell's facts count;
    `shape`, `color`, `size`, `material` (B, G, G): indices of words, of the nearest object;
    `offset`, `place`, `rotation` (B, 2, G, G); `floor`, `light` (B,): indices of words.
    """
    each = [scene_targets(scene) for scene in scenes]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def degrade(image: Tensor, generator: torch.Generator) -> Tensor:
    """A picture as a decoder might draw it: half of the time blurred or noisy, or both.

    The inspector has to read pictures out of an auto-encoder too, which no render looks like.

    Args:
        image: (3, 64, 64) in [-1, 1].
        generator: source of the choice.
    """
    choice = torch.rand(4, generator=generator).tolist()
    if choice[0] < 0.4:
        small = round(IMAGE_SIZE * (0.4 + 0.6 * choice[1]))
        shrunk = F.interpolate(image[None], size=(small, small), mode="area")
        image = F.interpolate(shrunk, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")[0]
    if choice[2] < 0.4:
        # Noise of a few pixels' width, as decoders make, under noise of single pixels.
        fine = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        wide = torch.randn(1, 3, IMAGE_SIZE // 4, IMAGE_SIZE // 4, generator=generator)
        wide = F.interpolate(wide, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")[0]
        image = image + 0.12 * choice[3] * (0.5 * fine + wide)
    return image.clamp(-1, 1)
