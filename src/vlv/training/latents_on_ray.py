"""Fills a cache of latents on a Ray cluster: each actor opens the images and the VAE for itself and
makes whole shards, as `vlv.training.latent_caching` does on one machine.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch

from vlv.data.image_sets import ImageSet
from vlv.data.on_ray import run_on_actors
from vlv.errors import DatasetError
from vlv.training.latent_caching import CachePlan, make_shards, only_writer, remove_leftovers
from vlv.training.samples.set_latents import CacheKey, Refusal, read_record

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

# A set, and a VAE with its stored weights on the device where it is to compute.
Opened: TypeAlias = "tuple[ImageSet, AutoencoderKL]"


@dataclass(frozen=True)
class LatentActors:
    """The processes that make shards, each with a VAE.

    Args:
        count: how many; None is one for each GPU of the cluster, or one for each machine where it
            has none.
        device: "cpu" uses no GPU.
        address: of a running cluster; None is that in RAY_ADDRESS, or a new one on this machine.
        batch_size: pictures per batch.
        workers: processes of each actor that decode images.
    """

    count: int | None = None
    device: str | None = None
    address: str | None = None
    batch_size: int = 32
    workers: int = 0


def fill_cache_on_ray(
    plan: CachePlan, opened: Callable[[], Opened], actors: LatentActors
) -> Iterator[list[Refusal]]:
    """Make the missing shards; yields as `fill_cache` does, a shard at a time.

    opened: called in each actor; it is sent there by pickle. The cache's folder is on a file system
    that all machines share.

    Raises:
        ConfigError: another process writes the same cache, Ray is not installed, or no cluster
            answers at the address.
        DatasetError: a disk is full, latents are not finite, a machine has other images or another
            VAE, or actors died again and again.
        SystemExit: 128 + the signal, on SIGTERM and SIGINT; shards at work are not done then.
    """
    if not plan.missing:
        return
    with only_writer(plan):
        yield from _shards(plan, opened, actors)
        remove_leftovers(plan.folder)  # of actors that died


def _shards(
    plan: CachePlan, opened: Callable[[], Opened], actors: LatentActors
) -> Iterator[list[Refusal]]:
    there = replace(plan, folder=plan.folder.absolute())
    for shard, refused in run_on_actors(
        partial(_maker, there, opened, actors),
        plan.missing,
        actors.count,
        actors.address,
        device=actors.device,
        cpus=1 + actors.workers,
        own_cpus=torch.get_num_threads(),
    ):
        for number in plan.contents.span(shard):
            yield [refused[number]] if number in refused else []


def _maker(
    plan: CachePlan, opened: Callable[[], Opened], actors: LatentActors, cpus: int
) -> Callable[[int], tuple[int, dict[int, Refusal]]]:
    """In an actor with so many CPUs: a function that makes a shard, and returns its number and
    what was refused.

    Raises:
        DatasetError: this machine has other images or another VAE.
    """
    torch.set_num_threads(cpus)
    images, vae = opened()
    contents = plan.contents
    here = CacheKey.of(vae, images, contents.image_size, contents.precision)
    if changes := contents.changes(here):
        raise DatasetError(
            f"{platform.node()} sees other inputs than the command: {', '.join(changes)}; all "
            "machines must share the files"
        )

    def made(shard: int) -> tuple[int, dict[int, Refusal]]:
        one = replace(plan, missing=(shard,))
        for _ in make_shards(
            one, images, vae, batch_size=actors.batch_size, workers=actors.workers
        ):
            pass
        record = read_record(plan.folder, shard)
        assert record is not None  # it was made just now
        return shard, record.refused

    return made
