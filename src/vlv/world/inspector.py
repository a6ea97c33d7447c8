"""The inspector: a supervised network that finds the objects of an image.

It replaces the vision-language model that draws 3D boxes in the paper (table 6), and its features
replace those of Inception in Fréchet distances. It only measures: no model is trained on it.

Shapes: B batch, G side of the grid (16), F features. A cell of the grid covers STRIDE pixels, and
cell (row, column) has its centre at pixel ((column + 0.5) * STRIDE, (row + 0.5) * STRIDE).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlv.errors import CheckpointError
from vlv.files import usual_mode
from vlv.text import read_object
from vlv.world.scene import COLORS, FLOORS, LIGHTS, MATERIALS, SHAPES, SIZES

STRIDE = 4
# Least height of a peak of the heat map that counts as an object.
THRESHOLD = 0.4
# If two peaks point to centres that are nearer than this, in cells, the lower one is the same
# object. Objects of a scene are at least twice as far apart.
SAME_OBJECT = 1.5
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "weights" / "inspector"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

# What is predicted in every cell, in the order of the channels. `offset` leads from the cell's
# centre to the object's in cells (column, row), `place` is the scene's (x, z), and `rotation` is
# (cos 4a, sin 4a): a cube looks the same after a quarter turn.
CELL_OUTPUTS: dict[str, int] = {
    "heat": 1,
    "shape": len(SHAPES),
    "color": len(COLORS),
    "size": len(SIZES),
    "material": len(MATERIALS),
    "offset": 2,
    "place": 2,
    "rotation": 2,
}
PICTURE_OUTPUTS: dict[str, int] = {"floor": len(FLOORS), "light": len(LIGHTS)}


_MOST_CHANNELS = 2048


@dataclass(frozen=True)
class InspectorConfig:
    """Channels at 1/2, 1/4 (the grid) and 1/8 of the picture's size."""

    fine: int = 24
    grid: int = 64
    coarse: int = 112


@dataclass(frozen=True)
class Detected:
    """An object that the inspector finds: its facts, and the confidence.

    `rotation` is in radians in [0, pi/2) and has a meaning for cubes only.
    """

    shape: str
    color: str
    size: str
    material: str
    x: float
    z: float
    rotation: float
    confidence: float


@dataclass(frozen=True)
class Inspection:
    """What the inspector finds in one image; objects by descending confidence."""

    floor: str
    light: str
    objects: tuple[Detected, ...]


class Inspector(nn.Module):
    """A small centre-point detector: a heat map of object centres, and facts in every cell."""

    def __init__(self, config: InspectorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or InspectorConfig()
        self.stem = nn.Sequential(_convolution(3, config.fine, stride=2), _Residual(config.fine))
        self.down = nn.Sequential(
            _convolution(config.fine, config.grid, stride=2), _Residual(config.grid)
        )
        self.context = nn.Sequential(
            _convolution(config.grid, config.coarse, stride=2),
            _Residual(config.coarse),
            _Residual(config.coarse),
        )
        self.lateral = nn.Conv2d(config.coarse, config.grid, 1)
        # Two more channels give every cell its position: depth follows from the row.
        self.merge = nn.Sequential(
            _convolution(config.grid + 2, config.grid), _Residual(config.grid)
        )
        self.cell_head = nn.Conv2d(config.grid, sum(CELL_OUTPUTS.values()), 1)
        self.picture_head = nn.Linear(self.num_features, sum(PICTURE_OUTPUTS.values()))
        # Almost all cells are empty. The bias starts from "nothing here", so that they do not
        # dominate the first steps.
        assert self.cell_head.bias is not None
        nn.init.constant_(self.cell_head.bias[:1], -math.log(99))

    @property
    def num_features(self) -> int:
        """Width F of `features`."""
        return self.config.coarse + self.config.grid

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps (B, C, G, G) named as in `CELL_OUTPUTS`, and (B, C) of `PICTURE_OUTPUTS`.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].
        """
        return self._outputs(*self._trunk(images))

    def _outputs(self, cells: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        maps = self.cell_head(cells).float().split(list(CELL_OUTPUTS.values()), dim=1)
        whole = self.picture_head(pooled).float().split(list(PICTURE_OUTPUTS.values()), dim=1)
        outputs = dict(zip(CELL_OUTPUTS, maps, strict=True))
        outputs.update(zip(PICTURE_OUTPUTS, whole, strict=True))
        return outputs

    def features(self, images: Tensor) -> Tensor:
        """(B, F) averages of the last layers before the heads, for Frechet distances.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].
        """
        return self._trunk(images)[1].float()

    @torch.inference_mode()
    def inspect(self, images: NDArray[np.uint8] | Tensor, batch_size: int = 64) -> list[Inspection]:
        """What is in each image.

        Args:
            images: (B, 64, 64, 3) uint8 RGB.
            batch_size: images at a time; it does not change the result.
        """
        return self.inspect_with_features(images, batch_size)[0]

    @torch.inference_mode()
    def inspect_with_features(
        self, images: NDArray[np.uint8] | Tensor, batch_size: int = 64
    ) -> tuple[list[Inspection], Tensor]:
        """As `inspect`, with the `features` (B, F) of the same pass, on the CPU."""
        found: list[Inspection] = []
        features = []
        for start in range(0, len(images), batch_size):
            chunk = torch.as_tensor(images[start : start + batch_size])
            cells, pooled = self._trunk(to_pixels(chunk).to(self.cell_head.weight.device))
            outputs = self._outputs(cells, pooled)
            found += decode({name: value.cpu() for name, value in outputs.items()})
            features.append(pooled.float().cpu())
        return found, torch.cat(features) if features else torch.zeros(0, self.num_features)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        provenance: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write config.json (with `provenance`) and the weights, as `dtype`, into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"config": asdict(self.config), "provenance": dict(provenance or {})}
        (folder / CONFIG_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        state = {
            name: value.detach().to("cpu", dtype).contiguous()
            for name, value in self.state_dict().items()
        }
        with usual_mode(folder / WEIGHTS_FILE):
            save_file(state, folder / WEIGHTS_FILE)

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> "Inspector":
        """The inspector in `folder`, or the one in the package; float32, ready to measure.

        Raises:
            CheckpointError: a file is missing or damaged, or a tensor does not fit.
        """
        folder = DEFAULT_FOLDER if folder is None else Path(folder)
        inspector = cls(_read_config(folder / CONFIG_FILE))
        path = folder / WEIGHTS_FILE
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is not a file.")
        try:
            state = {name: value.float() for name, value in load_file(path).items()}
        except FileNotFoundError as error:
            raise CheckpointError(f"The weights file {path} is missing.") from error
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"The weights file {path} is damaged: {error}") from error
        expected = {name: value.shape for name, value in inspector.state_dict().items()}
        for name in sorted(expected.keys() | state.keys()):
            stored = state[name].shape if name in state else None
            if stored != expected.get(name):
                raise CheckpointError(
                    f"{path} does not fit at {name!r}: stored {_describe(stored)}, "
                    f"needed {_describe(expected.get(name))}."
                )
        inspector.load_state_dict(state)
        return inspector.eval()

    def _trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, grid, G, G) and pooled features (B, F)."""
        images = images.contiguous(memory_format=torch.channels_last)
        fine = self.down(self.stem(images))
        coarse = self.context(fine)
        wide = F.interpolate(self.lateral(coarse), scale_factor=2.0, mode="nearest")
        where = _cell_centres(fine.shape[-1], fine).expand(len(fine), -1, -1, -1)
        cells = self.merge(torch.cat([fine + wide, where], dim=1))
        pooled = torch.cat([coarse.mean(dim=(2, 3)), cells.mean(dim=(2, 3))], dim=1)
        return cells, pooled


def to_pixels(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def decode(outputs: dict[str, Tensor], threshold: float = THRESHOLD) -> list[Inspection]:
    """Peaks of the heat map, with the facts of their cells, for each image of a batch.

    A peak is a cell that no neighbour exceeds. A lower peak of the same object does not count.
    """
    heat = outputs["heat"].sigmoid()
    highest = F.max_pool2d(heat, 3, stride=1, padding=1)
    peaks = ((heat == highest) & (heat >= threshold))[:, 0]
    floors = outputs["floor"].argmax(dim=1).tolist()
    lights = outputs["light"].argmax(dim=1).tolist()
    return [
        Inspection(
            floor=FLOORS[floors[index]],
            light=LIGHTS[lights[index]],
            objects=_objects(outputs, heat, index, peaks[index].nonzero().tolist()),
        )
        for index in range(len(heat))
    ]


def _objects(
    outputs: dict[str, Tensor], heat: Tensor, index: int, cells: list[list[int]]
) -> tuple[Detected, ...]:
    """The objects at the peaks `cells` (row, column) of picture `index`, highest peak first."""
    objects: list[Detected] = []
    centres: list[tuple[float, float]] = []
    heights = [(float(heat[index, 0, row, column]), row, column) for row, column in cells]
    for height, row, column in sorted(heights, reverse=True):
        facts = {name: outputs[name][index, :, row, column] for name in CELL_OUTPUTS}
        right, down = facts["offset"].tolist()
        centre = (column + right, row + down)
        if any(math.dist(centre, other) < SAME_OBJECT for other in centres):
            continue
        centres.append(centre)
        objects.append(_detected(facts, height))
    return tuple(objects)


def _detected(facts: dict[str, Tensor], confidence: float) -> Detected:
    x, z = facts["place"].tolist()
    cos, sin = facts["rotation"].tolist()
    return Detected(
        shape=SHAPES[int(facts["shape"].argmax())],
        color=COLORS[int(facts["color"].argmax())],
        size=SIZES[int(facts["size"].argmax())],
        material=MATERIALS[int(facts["material"].argmax())],
        x=x,
        z=z,
        rotation=(math.atan2(sin, cos) / 4) % (math.pi / 2),
        confidence=confidence,
    )


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(8, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def _cell_centres(side: int, like: Tensor) -> Tensor:
    """(1, 2, G, G): column and row of every cell in [-1, 1]."""
    steps = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side * 2 - 1
    row, column = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([column, row])[None]


def _read_config(path: Path) -> InspectorConfig:
    if not path.exists():
        raise CheckpointError(
            f"There is no inspector in {path.parent}: it holds no {CONFIG_FILE}; name a folder "
            "that `save_pretrained` wrote."
        )
    try:
        config = InspectorConfig(**read_object(path, CheckpointError)["config"])
        for name, channels in asdict(config).items():
            if not isinstance(channels, int) or not 0 < channels <= _MOST_CHANNELS or channels % 8:
                raise ValueError(f"{name} is {channels!r}, no multiple of 8 up to {_MOST_CHANNELS}")
        return config
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The inspector's config {path} cannot be used ({error}); save the inspector again."
        ) from error


def _describe(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else f"shape {tuple(shape)}"
