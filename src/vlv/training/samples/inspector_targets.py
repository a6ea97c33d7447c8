"""What the inspector has to say of a scene, and how wrong it is: targets and loss.

Knows scenes and the inspector's outputs; knows nothing of data sets or the training loop.

Shapes: B batch, G side of the inspector's grid (16).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlv.world.inspector import PICTURE_OUTPUTS, STRIDE
from vlv.world.render import IMAGE_SIZE, project
from vlv.world.scene import COLORS, FLOORS, LIGHTS, MATERIALS, SHAPES, SIZES, Scene

GRID = IMAGE_SIZE // STRIDE
_WORDS = {"shape": SHAPES, "color": COLORS, "size": SIZES, "material": MATERIALS}
_CUBE = SHAPES.index("cube")
# Spread of an object's heat in cells. Objects are at least three cells wide.
_SPREAD = 0.8
# Cells from which an object's facts are learned: those with at least this much of its heat. The
# highest cell of a predicted heat map may be a neighbour of the true one.
_NEAR = 0.25
# Powers of the penalty-reduced focal loss of heat maps (CornerNet, arXiv 1808.01244, equation 1).
_ALPHA, _BETA = 2, 4
LOSS_WEIGHTS = {
    "heat": 1.0,
    "shape": 1.0,
    "color": 1.0,
    "size": 0.5,
    "material": 0.5,
    "offset": 0.5,
    "place": 4.0,
    "rotation": 0.5,
    "floor": 0.2,
    "light": 0.2,
}


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
        for name, words in _WORDS.items()
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
    """What `Inspector.forward` should say of the scenes' pictures.

    `heat` and `weight` (B, G, G) in [0, 1]: where centres are, and how much a cell's facts count;
    `shape`, `color`, `size`, `material` (B, G, G): indices of words, of the nearest object;
    `offset`, `place`, `rotation` (B, 2, G, G); `floor`, `light` (B,): indices of words.
    """
    each = [scene_targets(scene) for scene in scenes]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def inspector_loss(
    outputs: dict[str, Tensor], targets: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and the terms by name with the cells' accuracies.

    Facts are learned near objects only, the rotation near cubes only.
    """
    weight = targets["weight"]
    terms = {"heat": _focal_loss(outputs["heat"][:, 0], targets["heat"])}
    metrics: dict[str, Tensor] = {}
    for name in _WORDS:
        losses = F.cross_entropy(outputs[name], targets[name], reduction="none")
        terms[name] = _average(losses, weight)
        right = (outputs[name].argmax(dim=1) == targets[name]).float()
        metrics[f"{name}_accuracy"] = _average(right, (targets["heat"] == 1).float()).detach()
    for name in ("offset", "place"):
        distance = F.smooth_l1_loss(outputs[name], targets[name], beta=0.1, reduction="none")
        terms[name] = _average(distance.sum(dim=1), weight)
    turned = F.smooth_l1_loss(outputs["rotation"], targets["rotation"], reduction="none").sum(1)
    terms["rotation"] = _average(turned, weight * (targets["shape"] == _CUBE))
    for name in PICTURE_OUTPUTS:
        terms[name] = F.cross_entropy(outputs[name], targets[name])
    loss = torch.stack([LOSS_WEIGHTS[name] * term for name, term in terms.items()]).sum()
    metrics.update({name: term.detach() for name, term in terms.items()})
    return loss, metrics


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


def _focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Cross-entropy of the heat map that forgives cells near a centre; a mean over objects."""
    chance = logits.sigmoid()
    hit = heat == 1
    on_objects = F.logsigmoid(logits) * (1 - chance) ** _ALPHA
    elsewhere = F.logsigmoid(-logits) * chance**_ALPHA * (1 - heat) ** _BETA
    return -torch.where(hit, on_objects, elsewhere).sum() / hit.sum().clamp(min=1)


def _average(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
