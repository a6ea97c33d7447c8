"""Stage `inspector`: the measuring instrument, supervised by the true scenes.

No model is ever trained on what it reports; it only measures.

Shapes: B batch, G side of the inspector's grid (16).
"""

from collections.abc import Collection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vlv.data.world_images import WorldImages
from vlv.training.objectives.objective import Objective
from vlv.training.samples.inspector_targets import WORDS, targets
from vlv.training.samples.source import Batch, to_device
from vlv.world.inspector import PICTURE_OUTPUTS, Inspector, to_pixels
from vlv.world.scene import SHAPES

# Pictures that are validated at once.
_BATCH = 64
_CUBE = SHAPES.index("cube")
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


class InspectorObjective(Objective):
    """Where objects are, what they are, and what floor and light there are.

    `held_out` is None where nothing is validated.
    """

    def __init__(self, inspector: Inspector, held_out: WorldImages | None = None) -> None:
        super().__init__()
        self.inspector = inspector
        self._held_out = held_out

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        truth = {name: value for name, value in batch.items() if name != "image"}
        return inspector_loss(self.inspector(batch["image"]), truth)

    def validate(self) -> dict[str, float]:
        held_out = self._held_out
        assert held_out is not None  # what is counted only is never validated
        sums: dict[str, float] = {}
        count = len(held_out)
        for start in range(0, count, _BATCH):
            chunk = range(start, min(start + _BATCH, count))
            images = torch.from_numpy(held_out.images[chunk.start : chunk.stop].copy())
            truth = targets([held_out.scene(index) for index in chunk])
            outputs = self.inspector(to_pixels(images).to(self.device))
            loss, metrics = inspector_loss(outputs, to_device(truth, self.device))
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(chunk) / count
        return sums

    @property
    def best_by(self) -> Collection[str]:
        return ["loss", *LOSS_WEIGHTS]

    def export(self, folder: Path) -> None:
        self.inspector.save_pretrained(folder)


def inspector_loss(
    outputs: dict[str, Tensor], targets: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and the terms by name with the cells' accuracies.

    Facts are learned near objects only, the rotation near cubes only.
    """
    weight = targets["weight"]
    terms = {"heat": _focal_loss(outputs["heat"][:, 0], targets["heat"])}
    metrics: dict[str, Tensor] = {}
    for name in WORDS:
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


def _focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Cross-entropy of the heat map that forgives cells near a centre; a mean over objects."""
    chance = logits.sigmoid()
    hit = heat == 1
    on_objects = F.logsigmoid(logits) * (1 - chance) ** _ALPHA
    elsewhere = F.logsigmoid(-logits) * chance**_ALPHA * (1 - heat) ** _BETA
    return -torch.where(hit, on_objects, elsewhere).sum() / hit.sum().clamp(min=1)


def _average(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
