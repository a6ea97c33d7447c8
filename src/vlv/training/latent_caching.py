"""Makes the cache of a set on disk that training reads: latents, and pictures where wanted.

Knows sets, crops and a VAE; knows no objective and no loop. Work is done a shard at a time: a shard
whose record is there is finished, whatever killed the process after that.

Shapes: B batch, S side of the decoder's pictures in pixels, C, h, w latents.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from torch.utils.data import DataLoader, Sampler

from vlv.data.image_sets import ImageSet
from vlv.data.remote.store import StoreError
from vlv.data.world_images import new_array
from vlv.errors import ConfigError, DatasetError, ImageError
from vlv.files import exclusive_lock, write_text
from vlv.models.config import FamilyName
from vlv.models.families import load_family
from vlv.models.preprocessing import decoder_pixels
from vlv.text import printable
from vlv.training.samples.carried import CarryingDataset, arrived, collated
from vlv.training.samples.latents import posterior_moments
from vlv.training.samples.set_latents import (
    KEY_FILE,
    SHARD_FILES,
    CacheContents,
    Refusal,
    ShardFile,
    ShardRecord,
    read_contents,
    read_record,
    shard_file,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class CachePlan:
    """What is to be made in a folder, and which shards of it are still missing."""

    folder: Path
    contents: CacheContents
    missing: tuple[int, ...]

    @property
    def pictures_left(self) -> int:
        """How many pictures are in the missing shards."""
        return sum(len(self.contents.span(shard)) for shard in self.missing)

    @property
    def bytes_left(self) -> int:
        """The disk space that the missing shards will take."""
        return self.pictures_left * self.contents.bytes_each

    @property
    def bytes_free(self) -> int:
        """The disk space that there is."""
        return shutil.disk_usage(self.folder).free

    def check_room(self) -> None:
        """Raises DatasetError where the disk has too little space."""
        if self.bytes_left > self.bytes_free:
            raise DatasetError(
                f"the latents need {gigabytes(self.bytes_left)} in {self.folder}, which has "
                f"{gigabytes(self.bytes_free)} free; name a folder on a larger disk with --out"
                + (", or leave out --pictures" if self.contents.pictures else "")
            )


def open_vae(folder: Path, family: FamilyName) -> "AutoencoderKL":
    """The VAE of a model folder alone, frozen; the denoiser is not read."""
    from vlv.checkpoints.components import load_network

    kind: Any = load_family(family).vae_class
    vae: AutoencoderKL = load_network(kind, folder).requires_grad_(False)
    return vae


def plan_cache(folder: Path, contents: CacheContents, *, overwrite: bool = False) -> CachePlan:
    """What is left to do; the folder is made if there is none.

    Raises:
        ConfigError: the folder holds something else, or the cache of another key, and `overwrite`
            is not set; or another process writes what is to be overwritten.
        DatasetError: it holds a damaged cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite and _is_cache(folder):
        with _locked(folder):
            _remove_cache(folder)
    if (folder / KEY_FILE).is_file():
        _require_same(folder, read_contents(folder), contents)
    elif any(path.name != ".lock" for path in folder.iterdir()):
        hint = ", or replace what is left of its latents with --overwrite"
        raise ConfigError(
            f"{folder} holds other files; name a new folder with --out"
            + (hint if _is_cache(folder) else "")
        )
    missing = [one for one in range(contents.shards) if read_record(folder, one) is None]
    return CachePlan(folder, contents, tuple(missing))


def _require_same(folder: Path, there: CacheContents, wanted: CacheContents) -> None:
    changes = there.changes(wanted)
    if there.pictures != wanted.pictures:
        changes.append("whether pictures are kept (--pictures)")
    if there.shard_size != wanted.shard_size:
        changes.append(f"the shard size (from {there.shard_size} to {wanted.shard_size})")
    if changes:
        raise ConfigError(
            f"{folder} holds latents that were begun with something else: {', '.join(changes)}; "
            "name another folder with --out, or replace them with --overwrite"
        )


def _is_cache(folder: Path) -> bool:
    """Whether a folder holds latents, or what is left of them; its key may be damaged."""
    if (folder / KEY_FILE).is_file():
        return True
    names = {path.name for path in folder.iterdir()} - {".lock"}
    of_shards = {name for name in names if SHARD_FILES.fullmatch(name)}
    return names == of_shards and any(name.endswith(".npy") for name in names)


def _remove_cache(folder: Path) -> None:
    """Remove the files of a cache; the records first, so that no shard seems finished."""
    files = [path for path in folder.iterdir() if SHARD_FILES.fullmatch(path.name)]
    for path in sorted(files, key=lambda path: path.suffix != ".json"):
        path.unlink()
    (folder / KEY_FILE).unlink(missing_ok=True)


def fill_cache(
    plan: CachePlan,
    images: ImageSet,
    vae: "AutoencoderKL",
    *,
    batch_size: int = 32,
    workers: int = 0,
) -> Iterator[list[Refusal]]:
    """Make the missing shards. Yields for every picture a list: empty, or why it was refused.

    vae: on the device where it is to compute. workers: processes that decode images.

    Raises:
        DatasetError: the disk is full, or latents are not finite.
        ConfigError: another process writes the same cache.
    """
    with only_writer(plan):
        yield from make_shards(plan, images, vae, batch_size=batch_size, workers=workers)


def make_shards(
    plan: CachePlan, images: ImageSet, vae: "AutoencoderKL", *, batch_size: int, workers: int
) -> Iterator[list[Refusal]]:
    """`fill_cache` inside of `only_writer`, which may be in another process."""
    contents = plan.contents
    loader = DataLoader(
        _Crops(images, contents.image_size),
        batch_sampler=_Batches([contents.span(shard) for shard in plan.missing], batch_size),
        num_workers=workers,
        collate_fn=partial(collated, list),
    )
    crops = iter(loader)
    for shard in plan.missing:
        with _new_shard(plan, shard) as new:
            while not new.full:
                crop_batch = arrived(next(crops))
                new.add(crop_batch, vae)
                for crop in crop_batch:
                    yield [crop] if isinstance(crop, Refusal) else []


class _Batches(Sampler[list[int]]):
    """The numbers of spans, so many at once; no batch is of two spans."""

    def __init__(self, spans: Sequence[range], size: int) -> None:
        self._spans = spans
        self._size = size

    def __iter__(self) -> Iterator[list[int]]:
        for span in self._spans:
            for at in range(0, len(span), self._size):
                yield list(span[at : at + self._size])


class _Crops(CarryingDataset[Any]):
    """Pictures as the decoder sees them: bytes (S, S, 3), or a refusal."""

    def __init__(self, images: ImageSet, size: int) -> None:
        self._images = images
        self._size = size

    def __getitem__(self, index: int) -> "NDArray[np.uint8] | Refusal":
        name = f"number {index}"
        try:
            sample = self._images[index]
            name = sample.file_name
            return decoder_pixels(sample.picture(), self._size).copy()
        except StoreError:
            raise  # the image may be good: the same command goes on when the store does
        # JSON cannot hold the name of a file that is no text.
        except ImageError as error:
            message = printable(str(error))
            return Refusal(name=printable(name), reason=error.reason, message=message)
        except DatasetError as error:
            message = printable(f"{name}: {error}")
            return Refusal(name=printable(name), reason="unusable", message=message)


class _Shard:
    """The arrays of a shard while it is made."""

    def __init__(
        self,
        span: range,
        moments: NDArray[np.float16],
        pictures: NDArray[np.uint8] | None,
        bfloat16: bool,
    ) -> None:
        self._span, self._moments, self._pictures = span, moments, pictures
        self._bfloat16 = bfloat16
        self._done = 0
        self.refused: dict[int, Refusal] = {}

    @property
    def full(self) -> bool:
        """Whether all of its pictures were added."""
        return self._done == len(self._span)

    def add(self, crops: "Sequence[NDArray[np.uint8] | Refusal]", vae: "AutoencoderKL") -> None:
        """The next pictures, or refusals in their places."""
        good: dict[int, NDArray[np.uint8]] = {}
        for place, crop in enumerate(crops, start=self._done):
            if isinstance(crop, Refusal):
                self.refused[self._span[place]] = crop
            else:
                good[place] = crop
        if good:
            pixels = np.stack(list(good.values()))
            moments = posterior_moments(vae, pixels, self._bfloat16)
            if not np.isfinite(moments).all():
                raise DatasetError(
                    f"the latents of pictures {self._span[min(good)]} to {self._span[max(good)]} "
                    "are too large for half precision; training has to compute them in every step"
                )
            self._moments[list(good)] = moments
            if self._pictures is not None:
                self._pictures[list(good)] = pixels
        self._done += len(crops)


@contextmanager
def _new_shard(plan: CachePlan, shard: int) -> Iterator[_Shard]:
    """A shard to fill, whose files have their names, and its record last, when the block ends."""
    folder, contents = plan.folder, plan.contents
    span, size = contents.span(shard), contents.image_size
    with ExitStack() as files:

        def array(kind: ShardFile, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
            new = new_array(shard_file(folder, shard, kind), shape, dtype, option="--out")
            return files.enter_context(new)

        moments = array("latents", (len(span), *contents.shape), np.float16)
        pictures = None
        if contents.pictures:
            pictures = array("images", (len(span), size, size, 3), np.uint8)
        made = _Shard(span, moments, pictures, contents.precision == "bf16")
        yield made
    record = ShardRecord(count=len(span), refused=made.refused)
    write_text(shard_file(folder, shard, "record"), record.model_dump_json() + "\n")


def refusals(plan: CachePlan) -> list[Refusal]:
    """Of the shards that are finished."""
    records = [read_record(plan.folder, shard) for shard in range(plan.contents.shards)]
    return [one for record in records if record for one in record.refused.values()]


def gigabytes(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


@contextmanager
def only_writer(plan: CachePlan) -> Iterator[None]:
    """Inside, no other command writes the cache, which has its contents written.

    Raises:
        ConfigError: another process writes it.
    """
    with _locked(plan.folder):
        remove_leftovers(plan.folder)
        write_text(plan.folder / KEY_FILE, plan.contents.model_dump_json(indent=1) + "\n")
        yield


def _locked(folder: Path) -> AbstractContextManager[None]:
    busy = ConfigError(f"another process writes latents into {folder}; let it end")
    return exclusive_lock(folder / ".lock", busy)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes left that were killed; none may be writing."""
    for path in folder.glob("*.tmp"):
        path.unlink()
