"""The cache of a set on disk: latents, and where wanted the pictures too, in mapped files.

`vlv.training.latent_caching` writes it, a shard at a time. A folder holds

    latents.json         the key: all that the values depend on
    00000.latents.npy    posterior mean and deviation (n, 2, C, h, w) of its pictures, float16
    00000.images.npy     their bytes (n, S, S, 3), decoded and cropped, where pictures are kept
    00000.json           written last: which pictures were refused, and why

A number in a cache is the number of a sample in its set. A refused picture has zeros.

Shapes: n pictures of a shard, S side of the decoder's pictures in pixels, C, h, w latents.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlv.data.image_sets import ImageSet
from vlv.errors import DatasetError, ImageError
from vlv.models.latent_codec import LatentScale
from vlv.text import first_fault, read_object
from vlv.training.samples.latents import Latents, encoder_hash, moments_shape

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

KEY_FILE = "latents.json"
SHARD_FILES = re.compile(r"\d{5}\.(json|latents\.npy|images\.npy)")
"""Names of the files of shards."""
# Mapped files that a process keeps open.
_OPEN_SHARDS = 64
ModelT = TypeVar("ModelT", bound=BaseModel)
ShardFile = Literal["latents", "images", "record"]


class CacheKey(BaseModel):
    """What the values of a cache depend on. `vae` and `images` are hashes of the VAE's encoder and
    of the set; `shape` is that of a picture's moments (2, C, h, w).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    vae: str
    precision: Literal["no", "bf16"]
    image_size: int = Field(gt=0)
    images: str
    count: int = Field(gt=0)
    shape: tuple[int, int, int, int]

    @classmethod
    def of(
        cls,
        vae: "AutoencoderKL",
        images: ImageSet,
        image_size: int,
        precision: Literal["no", "bf16"],
    ) -> "CacheKey":
        """The key of a cache of these images, for a VAE that has its stored weights."""
        return cls(
            vae=encoder_hash(vae),
            precision=precision,
            image_size=image_size,
            images=images.fingerprint,
            count=len(images),
            shape=moments_shape(vae, image_size),
        )

    def changes(self, now: "CacheKey") -> list[str]:
        """What is no longer as it was when a cache of this key was made, in words."""
        found = []
        if (self.images, self.count) != (now.images, now.count):
            found.append(f"the images ({self.count} were cached, the set has {now.count})")
        if self.vae != now.vae or self.shape[1] != now.shape[1]:
            found.append("the VAE")
        if self.image_size != now.image_size:
            found.append(f"the image size (from {self.image_size} px to {now.image_size} px)")
        if self.precision != now.precision:
            found.append(f"the precision (from {self.precision} to {now.precision})")
        return found


class CacheContents(CacheKey):
    """The content of latents.json: the key, and how the folder is laid out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: bool
    """Whether the pictures' bytes are kept."""
    shard_size: int = Field(gt=0)

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.count // self.shard_size)

    def span(self, shard: int) -> range:
        """The numbers of its pictures."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.count))

    @property
    def bytes_each(self) -> int:
        """The disk space of one picture."""
        moments = 2 * int(np.prod(self.shape))
        return moments + (3 * self.image_size**2 if self.pictures else 0)


class Refusal(BaseModel):
    """A picture that the cache does not hold."""

    name: str
    reason: str
    message: str


class ShardRecord(BaseModel):
    """The content of 00000.json: `refused` by the pictures' numbers in the set."""

    count: int
    refused: dict[int, Refusal] = {}


class SetLatents(Latents):
    """A finished cache, for pictures by their number in the set."""

    def __init__(self, folder: Path, scale: LatentScale) -> None:
        """scale: that of the VAE.

        Raises:
            DatasetError: there is no cache, it is damaged, or some shards are not made yet.
        """
        self._folder = folder
        self._scale = scale
        self.contents = read_contents(folder)
        self._refused: dict[int, Refusal] = {}
        missing = []
        for shard in range(self.contents.shards):
            record = read_record(folder, shard)
            if record is None:
                missing.append(shard)
            else:
                self._refused |= record.refused
        if missing:
            raise DatasetError(
                f"the latents in {folder} are not complete ({len(missing)} of "
                f"{self.contents.shards} shards are missing); run the vlv data latents command "
                "that began them once more, it goes on where it was stopped"
            )

    def require(self, now: CacheKey) -> None:
        """Raises DatasetError where a run needs other latents; it says what changed."""
        if changes := self.contents.changes(now):
            raise DatasetError(
                f"the latents in {self._folder} do not fit this run, because something changed "
                f"since they were made: {', '.join(changes)}; make them again with vlv data "
                "latents --overwrite, or take data.latents out of the config"
            )

    def check(self, index: int) -> None:
        """Raises ImageError for a picture that was refused when the cache was made."""
        if (refusal := self._refused.get(index)) is not None:
            raise ImageError(refusal.reason, refusal.message)

    def moments(self, index: int) -> NDArray[np.float16]:
        """Read from the shard's file."""
        found: NDArray[np.float16] = self._read("latents", index)
        return found

    def picture(self, index: int) -> NDArray[np.uint8] | None:
        """Bytes (S, S, 3); None where pictures are not kept."""
        if not self.contents.pictures:
            return None
        found: NDArray[np.uint8] = self._read("images", index)
        return found.copy()

    def _read(self, kind: Literal["latents", "images"], index: int) -> Any:
        shard, place = divmod(index, self.contents.shard_size)
        return _mapped(shard_file(self._folder, shard, kind))[place]


def read_contents(folder: Path) -> CacheContents:
    """Raises DatasetError where there is no cache, or a damaged one."""
    path = folder / KEY_FILE
    if not path.is_file():
        raise DatasetError(
            f"{folder} holds no latents ({KEY_FILE} is missing); vlv data latents makes them"
        )
    return _checked(CacheContents, path, "make the latents again with vlv data latents --overwrite")


def read_record(folder: Path, shard: int) -> ShardRecord | None:
    """The record of a shard; None where the shard is not finished."""
    path = shard_file(folder, shard, "record")
    remedy = "remove it and run vlv data latents again"
    return _checked(ShardRecord, path, remedy) if path.is_file() else None


def shard_file(folder: Path, shard: int, kind: ShardFile) -> Path:
    """The name of a shard's file."""
    return folder / (f"{shard:05d}.json" if kind == "record" else f"{shard:05d}.{kind}.npy")


def _checked(kind: type[ModelT], path: Path, remedy: str) -> ModelT:
    try:
        return kind.model_validate(read_object(path, DatasetError))
    except DatasetError as error:
        raise DatasetError(f"{error}; {remedy}") from error
    except ValidationError as error:
        fault = first_fault(error, "the whole file")
        raise DatasetError(
            f"{path} is damaged, or of another version ({fault}); {remedy}"
        ) from error


@lru_cache(maxsize=_OPEN_SHARDS)
def _mapped(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} is damaged or missing ({error}); remove its record (.json) and run vlv data "
            "latents again"
        ) from error
    return found
