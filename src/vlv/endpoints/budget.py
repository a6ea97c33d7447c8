"""Money and tokens of requests: what a run will take, and a limit that is never passed.

Before a request is sent, the most that it can cost is set aside; what is left over comes back with
its answer. So requests that are on their way together cannot pass a limit together.
"""

from dataclasses import dataclass

from vlv.endpoints.endpoint import Answer
from vlv.endpoints.ledger import Spent

# A picture of 1024 px takes 765 to about 1,600 tokens at the large services, the smallest one 85;
# the first answers say more. Four characters of English are about a token.
_IMAGE_TOKENS = 1600
_LEAST_IMAGE_TOKENS = 85
_IMAGE_PIXELS = 1024 * 1024
_CHARACTERS = 4
# The mean length of a caption in the paper.
_CAPTION_TOKENS = 227


def image_tokens(width: int, height: int, max_side: int) -> float:
    """About how many tokens an image takes that is reduced to `max_side` before it is sent."""
    scale = min(1.0, max_side / max(width, height))
    tokens = _IMAGE_TOKENS * width * height * scale**2 / _IMAGE_PIXELS
    return max(_LEAST_IMAGE_TOKENS, tokens)


@dataclass(frozen=True)
class Prices:
    """USD for a million tokens; None where they are not known."""

    prompt: float | None = None
    completion: float | None = None

    @property
    def known(self) -> bool:
        """Whether money can be counted."""
        return self.prompt is not None and self.completion is not None

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """USD; 0 where prices are not known."""
        prompt, completion = self.prompt or 0.0, self.completion or 0.0
        return (prompt * prompt_tokens + completion * completion_tokens) / 1e6


@dataclass(frozen=True)
class Limits:
    """The most that a run may spend, answers of earlier runs included; None is no limit."""

    usd: float | None = None
    tokens: int | None = None


def prompt_tokens_of(characters: int, images: int) -> int:
    """Of a prompt, by a rule of thumb."""
    return images * _IMAGE_TOKENS + characters // _CHARACTERS


class Budget:
    """What was spent, and what is set aside for requests on their way."""

    def __init__(
        self,
        spent: Spent,
        prices: Prices,
        limits: Limits,
        instruction: str,
        *,
        images: int = 1,
        completion_tokens: int = _CAPTION_TOKENS,
    ) -> None:
        """`images` and `completion_tokens`: of a usual request, before any is answered."""
        self.spent = spent
        self._prices = prices
        self._limits = limits
        self._instruction_tokens = len(instruction) // _CHARACTERS
        self._prompt_tokens = prompt_tokens_of(len(instruction), images)
        self._completion_tokens = completion_tokens
        self._set_aside: dict[int, tuple[int, int]] = {}
        self._number = 0

    @property
    def usd(self) -> float:
        """Spent until now; 0 where prices are not known."""
        return self._prices.of(self.spent.prompt_tokens, self.spent.completion_tokens)

    def cannot_count(self, answer: Answer) -> bool:
        """Whether a limit cannot be kept, because the server does not report tokens."""
        limited = self._limits.usd is not None or self._limits.tokens is not None
        # An answer that the server has blocked has no text, and no tokens of it.
        counted = answer.completion_tokens or (answer.prompt_tokens and not answer.text.strip())
        return limited and not counted

    def expected(self, requests: int, image_tokens: float | None = None) -> tuple[int, float]:
        """Tokens and USD of so many more requests, by the answers until now or by a rule of thumb.

        image_tokens: of the image of a request, by its size, where that is known.
        """
        spent = self.spent
        measured = spent.requests and spent.prompt_tokens
        unmeasured: float = self._prompt_tokens
        if image_tokens is not None:
            unmeasured = image_tokens + self._instruction_tokens
        prompt = spent.prompt_tokens / spent.requests if measured else unmeasured
        completion = (
            spent.completion_tokens / spent.requests if measured else self._completion_tokens
        )
        return round(requests * (prompt + completion)), self._prices.of(
            requests * prompt, requests * completion
        )

    @property
    def on_their_way(self) -> int:
        """Requests that may give something back."""
        return len(self._set_aside)

    def reserve(self, max_tokens: int, prompt_tokens: int = 0) -> int | None:
        """Set aside the most that a request can take; None if it could pass a limit.

        prompt_tokens: of this request by a rule of thumb, where requests are not alike.
        """
        asked = max(self._prompt_tokens, prompt_tokens), max_tokens
        whole = [asked, *self._set_aside.values()]
        prompt = self.spent.prompt_tokens + sum(one for one, _ in whole)
        completion = self.spent.completion_tokens + sum(one for _, one in whole)
        limits = self._limits
        if limits.tokens is not None and prompt + completion > limits.tokens:
            return None
        if limits.usd is not None and self._prices.of(prompt, completion) > limits.usd:
            return None
        self._number += 1
        self._set_aside[self._number] = asked
        return self._number

    def settle(self, number: int, answer: Answer | None) -> None:
        """Enter the answer of a request for which something was set aside; None for no answer."""
        del self._set_aside[number]
        if answer is not None:
            self.spent += answer
            # Of a larger picture than all before, more is set aside from now on.
            self._prompt_tokens = max(self._prompt_tokens, answer.prompt_tokens)
