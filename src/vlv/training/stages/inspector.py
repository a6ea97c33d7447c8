"""Stage `inspector`: the measuring instrument, supervised by the true scenes.

No model is ever trained on what it says; it only measures.
"""

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from vlv.data.world_images import WorldImages
from vlv.training.config import TrainingConfig, WorldDataConfig
from vlv.training.samples.data_order import generator
from vlv.training.samples.inspector_targets import degrade, inspector_loss, scene_targets, targets
from vlv.training.stage import Batch, Stage, to_device
from vlv.training.stages.common import pixels, validation_images, world_data, world_images
from vlv.world.inspector import Inspector


class InspectorConfig(TrainingConfig):
    """`more_data` are further scenes: an instrument has to read every split, since it measures on
    every split; there is nothing that it must not have seen but the measured scenes themselves.
    """

    more_data: list[WorldDataConfig] = []


class InspectorStage(Stage):
    """Where objects are, what they are, and what floor and light there are."""

    name = "inspector"

    def __init__(self, config: InspectorConfig) -> None:
        super().__init__()
        self.config: InspectorConfig = config
        self.sets = [world_images(data) for data in (world_data(config), *config.more_data)]
        self._ends = list(accumulate(len(images) for images in self.sets))
        self.held_out = validation_images(config)
        self.inspector = Inspector()

    @property
    def size(self) -> int:
        return self._ends[-1]

    def item(self, position: int, index: int) -> Batch:
        images, at = self._locate(index)
        image = pixels(torch.from_numpy(images.images[at : at + 1].copy()))[0]
        random = generator(self.config.seed, position, "degrade")
        return {"image": degrade(image, random), **scene_targets(images.scene(at))}

    def _locate(self, index: int) -> tuple[WorldImages, int]:
        """The set that holds sample `index`, and the sample's place in it."""
        found = bisect_right(self._ends, index)
        images = self.sets[found]
        return images, index - (self._ends[found] - len(images))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        truth = {name: value for name, value in batch.items() if name != "image"}
        return inspector_loss(self.inspector(batch["image"]), truth)

    def validate(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        count = len(self.held_out)
        for start in range(0, count, 64):
            chunk = range(start, min(start + 64, count))
            images = torch.from_numpy(self.held_out.images[chunk.start : chunk.stop].copy())
            truth = targets([self.held_out.scene(index) for index in chunk])
            outputs = self.inspector(pixels(images).to(self.device))
            loss, figures = inspector_loss(outputs, to_device(truth, self.device))
            for name, value in {"loss": loss, **figures}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(chunk) / count
        return sums

    def export(self, folder: Path) -> None:
        self.inspector.save_pretrained(folder)
