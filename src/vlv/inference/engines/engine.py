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

from vlv.inference.engines.sampling import Sampling

Finish = Literal["end", "length"]
"""Why a sequence is finished: the model ended it, or it has max_new_tokens."""


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
    """A request of which nothing more will come, while others go on; `message` is one sentence.

    `refused`: the engine works, and does not do what this request asks for.
    """

    key: int
    message: str
    refused: bool = False


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

    @property
    @abstractmethod
    def positions(self) -> int | None:
        """The most positions of a caption and its prompt together; None for no limit."""

    @property
    def failing(self) -> bool:
        """Whether requests fail now, whatever they ask for. Any thread may ask."""
        return False

    @abstractmethod
    def add(self, key: int, e: Tensor, sampling: Sampling, written: Sequence[int] = ()) -> None:
        """Accept a request under a key that no open request has.

        e (Q,d_LM) on any device. written: the new tokens that a request with one sequence has from
        an engine that stopped; it continues after them as if it had never stopped.

        Raises:
            ConfigError: this engine cannot do what `sampling` asks for.
            ValueError: a library of this engine says the same.
            EngineStopped: its process has ended.
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
