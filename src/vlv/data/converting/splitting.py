"""Which part of a split an image belongs to: a function of the image alone.

So a split stays as it is when the dataset grows, and copies of a file are in one part. The numbers
of images follow the fractions only as far as chance goes.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vlv.data.samples import Sample
from vlv.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][\w-]*")


@dataclass(frozen=True)
class Split:
    """fractions: (name, share) of parts; what is left over belongs to `rest`.

    by: the hash of the image file, or of the key, whose copies may be in several parts.
    """

    fractions: tuple[tuple[str, float], ...]
    rest: str = "train"
    by: Literal["content", "key"] = "content"
    seed: int = 0

    def __post_init__(self) -> None:
        names = [*(name for name, _ in self.fractions), self.rest]
        for name in names:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{name!r} is no name of a part; use letters, digits, - and _")
        if len(set(names)) < len(names):
            raise ConfigError(f"two parts have one name: {', '.join(names)}")
        total = sum(share for _, share in self.fractions)
        if not 0 < total < 1:
            raise ConfigError(
                f"the fractions of the split add up to {total:.0%}; together they must be less "
                f"than 100%, since the rest is the part {self.rest}"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all parts."""
        return (self.rest, *(name for name, _ in self.fractions))

    def part_of(self, sample: Sample) -> str:
        """The part of an image."""
        data = sample.image if self.by == "content" else sample.key.encode()
        digest = hashlib.blake2b(data, digest_size=8, key=str(self.seed).encode()).digest()
        left = int.from_bytes(digest, "big") / 2**64
        for name, share in self.fractions:
            left -= share
            if left < 0:
                return name
        return self.rest

    def settings(self) -> dict[str, Any]:
        """What the parts depend on."""
        about = asdict(self)
        return {**about, "fractions": [list(one) for one in self.fractions]}


def parse_fractions(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """(name, share) of texts such as `validation=5%` or `validation=0.05`.

    Raises:
        ConfigError: a text is none of these.
    """
    found = []
    for text in texts:
        name, _, value = text.partition("=")
        try:
            share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise ConfigError(f"--fraction {text}: write it as in validation=5%")
        found.append((name, share))
    return tuple(found)
