"""Seeds of images that are drawn: one for each, given or drawn by a generator. And torch's global
generators, which belong to the caller.
"""

import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from vlv.errors import ConfigError


def chosen_seeds(
    count: int, generator: torch.Generator | None, seeds: Sequence[int] | None
) -> Sequence[int] | None:
    """The seeds that were given, or those that the generator draws; None without both.

    Raises ConfigError for both together, and for what is neither.
    """
    given: tuple[Any, Any] = (seeds, generator)
    if isinstance(given[0], int):
        raise ConfigError(f"seeds is a list with one for each picture, such as [{seeds}].")
    if not isinstance(given[1], torch.Generator | None):
        raise ConfigError(
            "generator is one torch.Generator, which draws the seeds of all pictures, not "
            f"{type(generator).__name__}; `seeds` has one for each."
        )
    if seeds is not None:
        check_seeds(seeds, count)
    if generator is None:
        return seeds
    if seeds is not None:
        raise ConfigError("Give seeds or a generator, not both.")
    drawn: list[int] = torch.randint(
        2**62, (count,), generator=generator, device=generator.device
    ).tolist()
    return drawn


def check_seeds(seeds: Sequence[int], count: int) -> None:
    """Raise ConfigError unless each of `count` images has one integer of 0 to 2**63 - 1."""
    if len(seeds) != count:
        raise ConfigError(f"Got {len(seeds)} seeds for {count} pictures; give one for each.")
    if not all(_is_seed(seed) for seed in seeds):
        raise ConfigError(f"Seeds must be whole numbers of 0 to 2**63 - 1, got {list(seeds)}.")


def _is_seed(given: Any) -> bool:
    try:
        return 0 <= operator.index(given) < 2**63  # integers of numpy and torch are some too
    except TypeError:
        return False


def kept_generators(device: torch.device, enabled: bool = True) -> AbstractContextManager[None]:
    """Inside, the global generators of the CPU and of a device may be seeded; afterwards they are
    as they were before.
    """
    if device.type == "cpu":
        return torch.random.fork_rng([], enabled)
    return torch.random.fork_rng([device], enabled, device_type=device.type)
