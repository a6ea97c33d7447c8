"""How the tokens of a request are chosen: plain data, which processes without torch know too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenRules:
    """How the next token is selected, beyond temperature and top_p.

    top_k, min_p: candidates of a token that is drawn, by number and by share of the most likely
    one. repetition_penalty, presence_penalty, frequency_penalty: against tokens that the caption
    has already, as vLLM and OpenAI define them. The defaults change nothing.
    """

    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one request are chosen.

    A temperature of 0 takes the most likely token. Above it tokens are drawn from the most likely
    ones that together reach top_p. The draws depend on the seed and the number of the sequence,
    not on the requests beside it. Every sequence begins with forced_start, which does not count as
    new tokens; banned_words do not occur in the rest, in upper or lower case
    (`vlv.models.caption_tokens.spellings`).
    """

    max_new_tokens: int = 300
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    sequences: int = 1
    forced_start: str = ""
    banned_words: tuple[str, ...] = ()
    rules: TokenRules = TokenRules()
