"""What every engine offers: prompt embeddings e = psi(c) in, streams of tokens out.

An engine runs a causal language model for many requests at once. Requests may join and leave at any
step, so that a row that ended makes room for an image that waits. Engines know tokens, not images
or texts of captions; `writing` makes captions of what they give.

Shapes: Q embeddings of a prompt, d_LM the language model's width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Finish = Literal["end", "length"]
"""Why a sequence is finished: the model ended it, or it has max_new_tokens."""


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one request are chosen.

    A temperature of 0 takes the most likely token. Above it tokens are drawn from the most likely
    ones that together reach top_p. The draws depend on the seed and the number of the sequence,
    not on the requests beside it. Every sequence begins with forced_start, which does not count as
    new tokens; banned_words do not occur in the rest, in upper or lower case
    (`vlv.models.caption_decoder.spellings`).
    """

    max_new_tokens: int = 300
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    sequences: int = 1
    forced_start: str = ""
    banned_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewTokens:
    """What one step added to one sequence of a request.

    `ids` holds neither the forced start nor the end token, and is empty where a sequence ends
    without another token. A finished sequence has no later event.
    """

    key: int
    sequence: int
    ids: tuple[int, ...]
    finish: Finish | None = None


@dataclass(frozen=True)
class RequestFailed:
    """A request of which nothing more will come, while others go on; `message` is one sentence."""

    key: int
    message: str


class CaptionEngine(ABC):
    """A language model at work for many requests. All methods are called from one thread.

    After an error of `step` the engine is of no use but for `close`.
    """

    @property
    @abstractmethod
    def room(self) -> int:
        """The number of further sequences that would be worked on at once; may be negative.

        What is added beyond it waits inside the engine.
        """

    @abstractmethod
    def add(self, key: int, e: Tensor, sampling: Sampling, written: Sequence[int] = ()) -> None:
        """Accept a request under a key that no open request has.

        e (Q,d_LM) on any device. written: the new tokens that a request with one sequence has from
        an engine that stopped; it continues after them as if it had never stopped.

        Raises:
            ConfigError: this engine cannot do what `sampling` asks for.
        """

    @abstractmethod
    def step(self) -> list[NewTokens | RequestFailed]:
        """Advance the open requests, by about one token a sequence. Empty without open requests.

        A step that only prepares a request may give nothing.

        Raises:
            EngineError: the engine has stopped.
        """

    @abstractmethod
    def cancel(self, key: int) -> None:
        """Forget a request; nothing happens if it is finished or unknown."""

    @abstractmethod
    def close(self) -> None:
        """Free what the engine holds. Open requests are forgotten."""
