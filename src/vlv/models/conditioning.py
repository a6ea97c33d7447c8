"""What a text tower gives and a denoiser takes: the conditioning c of a text-to-image model.

Shapes: B batch, L positions, d width of the tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlv.errors import ConfigError


@dataclass(frozen=True)
class Slot:
    """A sequence of token embeddings that a text tower takes: a part of what z consists of.

    positions: the longest sequence. width: that of an embedding.
    """

    name: str
    positions: int
    width: int


@dataclass(frozen=True)
class Conditioning:
    """c of B samples.

    tokens (B,L,d): what cross-attention reads, and the caption decoder. pooled (B,p), mask (B,L)
    and extras (B,...): what some families of models need beside them; Stable Diffusion 1 and 2
    need none.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> "Conditioning":
        """Some of the samples: a slice, indices or a mask."""
        return Conditioning(
            self.tokens[rows],
            None if self.pooled is None else self.pooled[rows],
            None if self.mask is None else self.mask[rows],
            {name: value[rows] for name, value in self.extras.items()},
        )

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tokens.device

    def repeat(self, count: int) -> "Conditioning":
        """The one sample `count` times."""
        return self[torch.zeros(count, dtype=torch.long, device=self.device)]

    def repeat_interleave(self, count: int) -> "Conditioning":
        """Each sample `count` times, side by side."""
        return Conditioning(
            self.tokens.repeat_interleave(count, dim=0),
            None if self.pooled is None else self.pooled.repeat_interleave(count, dim=0),
            None if self.mask is None else self.mask.repeat_interleave(count, dim=0),
            {name: value.repeat_interleave(count, dim=0) for name, value in self.extras.items()},
        )

    def first(self, length: int) -> "Conditioning":
        """The first `length` tokens of each sample."""
        mask = None if self.mask is None else self.mask[:, :length]
        return Conditioning(self.tokens[:, :length], self.pooled, mask, self.extras)


@dataclass(frozen=True)
class LatePrompt:
    """What B samples are drawn from once the share `start` of the timesteps (0 to 1, as
    `denoising_start` counts them in diffusers) is behind.

    c of B samples, and uncond of one, whose lengths may differ from those of the first prompt.
    """

    c: Conditioning
    uncond: Conditioning
    start: float

    def __post_init__(self) -> None:
        """Raises ConfigError for a start that is not between 0 and 1."""
        check_start(self.start)

    def __getitem__(self, rows: slice) -> "LatePrompt":
        """Some of the samples."""
        return LatePrompt(self.c[rows], self.uncond, self.start)


def check_start(start: float) -> None:
    """Raise ConfigError for a start of a late prompt that is not between 0 and 1."""
    if not 0 < start < 1:
        raise ConfigError(f"the late prompt must start between 0 and 1, not at {start}.")


def concatenated(parts: Sequence[Conditioning]) -> Conditioning:
    """The samples of all parts, in order."""

    def joined(values: Sequence[Tensor | None]) -> Tensor | None:
        given = [one for one in values if one is not None]
        return torch.cat(given) if given else None

    return Conditioning(
        torch.cat([one.tokens for one in parts]),
        joined([one.pooled for one in parts]),
        joined([one.mask for one in parts]),
        {name: torch.cat([one.extras[name] for one in parts]) for name in parts[0].extras},
    )
