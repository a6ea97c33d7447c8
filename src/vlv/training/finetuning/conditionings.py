"""What the caption decoder reads of each picture: computed once, since nothing before it trains.

Each picture is computed by itself, so that what it gives depends on nothing else: a fine-tune
with kept conditionings is the same, bit for bit, as one that computes them in every step.

Shapes: Q, d length and width of c, S the encoder's side in pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlv.files import atomic_file
from vlv.models.config import CaptionsFrom
from vlv.models.encoder import VLVEncoder
from vlv.models.preprocessing import encoder_pixels
from vlv.models.text_tower import TextTower
from vlv.training.finetuning.pictures import CaptionedPicture, Pictures, digest
from vlv.training.run_folder import writing

# Pictures whose conditionings share a file.
_IN_A_FILE = 64
# Mapped files that a process keeps open.
_OPEN_FILES = 64


class Reader(nn.Module):
    """Encoder and text tower, frozen: pixels -> what the caption decoder reads."""

    def __init__(
        self, encoder: VLVEncoder, text_tower: TextTower, captions_from: CaptionsFrom
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.text_tower = text_tower
        self._captions_from = captions_from
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Conditionings (B,Q,d) in float32 of bytes (B,S,S,3), one by one."""
        rows = []
        for one in pixels.split(1):
            z = self.encoder(self.encoder.preprocess_uint8(one))
            rows.append((z if self._captions_from == "z" else self.text_tower(z).tokens).float())
        return torch.cat(rows)


def pixels_of(
    pictures: Pictures, one: CaptionedPicture, size: int, crop: int | None
) -> NDArray[np.uint8]:
    """Bytes (S,S,3) of a picture for the encoder."""
    return encoder_pixels(pictures.picture(one), size, crop)


class KeptConditionings:
    """Conditionings in files of a folder, float32, `_IN_A_FILE` pictures each."""

    def __init__(self, folder: Path, pictures: Sequence[CaptionedPicture]) -> None:
        self._folder = folder
        self._pictures = pictures
        self._place = {one.number: place for place, one in enumerate(pictures)}

    def fill(
        self, compute: Callable[[CaptionedPicture], Tensor], missing: Iterable[CaptionedPicture]
    ) -> None:
        """Compute those that are `missing`, and write every file that is full."""
        rows: list[NDArray[np.float32]] = []
        for one in missing:
            rows.append(compute(one).cpu().numpy()[0])
            place = self._place[one.number] + 1
            if place == len(self._pictures) or place % _IN_A_FILE == 0:
                path = self._path((place - 1) // _IN_A_FILE)
                with writing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_file(path) as unfinished, unfinished.open("wb") as stream:
                        np.save(stream, np.stack(rows))
                rows = []

    def missing(self) -> list[CaptionedPicture]:
        """The pictures whose conditionings are not there yet."""
        return [
            one
            for place, one in enumerate(self._pictures)
            if not self._path(place // _IN_A_FILE).is_file()
        ]

    def __getitem__(self, place: int) -> Tensor:
        """(Q,d) of the picture at a place of those given."""
        rows = _mapped(self._path(place // _IN_A_FILE))
        return torch.from_numpy(rows[place % _IN_A_FILE].copy())

    def _path(self, file: int) -> Path:
        some = self._pictures[file * _IN_A_FILE : (file + 1) * _IN_A_FILE]
        name = digest("\0".join(one.content for one in some).encode())
        return self._folder / f"{file:05d}-{name}.npy"


@lru_cache(maxsize=_OPEN_FILES)
def _mapped(path: Path) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return rows
