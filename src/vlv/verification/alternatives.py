"""Words of a caption that its picture decides, and what might stand there instead.

The caption decoder reads the caption twice: with the picture's own conditioning, and with that of
other pictures. Where the two readings expect different words, the picture decides. What the second
one expects are the alternatives: "red" may be "blue" there, but "a" stays "a". No list of words and
no other model is needed. Knows text and conditionings; nothing of pictures or of the world.

Shapes: B batch, Q length of c, L tokens of the caption, V words that the language model knows.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vlv.models.caption_decoder import CaptionDecoder

# What comes next has to be at least this likely after the other word, beside the one that is there.
_FLUENT = 0.05
# From so many nats on the picture decides a word; other words have at least this probability for
# other pictures.
_LEAST_DIVERGENCE, _LEAST_PROBABILITY = 0.05, 0.01
# Where many words may stand, as at the start of a caption, two of them hardly move the divergence.
# There the picture decides between them if it shifts the odds of one against the other by so many
# nats.
_LEAST_SHIFT = 1.0
# Other words of a place that are tried, the likeliest first. Most of those at a caption's start do
# not go on as the caption does: "Two objects" and "Three objects" do, "On objects" does not.
_TRIED = 32


@dataclass(frozen=True)
class Alternative:
    """Another word for text[start:end] of a caption.

    log_odds: how much likelier the caption decoder finds it there for this picture, in nats.
    """

    start: int
    end: int
    word: str
    log_odds: float


@dataclass(frozen=True)
class GroundedWord:
    """text[start:end] of a caption, a word that the picture decides."""

    start: int
    end: int
    alternatives: tuple[Alternative, ...]


@torch.no_grad()
def grounded_words(
    caption_decoder: CaptionDecoder,
    seen: Tensor,
    others: Tensor,
    text: str,
    *,
    per_word: int = 3,
    least_log_odds: float = -math.inf,
) -> list[GroundedWord]:
    """The words of `text` that the picture decides, in order.

    seen (1,Q,d_T) is what the caption decoder reads of the picture, others (B,Q,d_T) of other ones.
    A word counts from `_LEAST_DIVERGENCE` nats on, or against a word whose odds the picture shifts
    by `_LEAST_SHIFT`, and has up to `per_word` alternatives that have at least `_LEAST_PROBABILITY`
    for the others. Those that the caption decoder itself nearly wrote come first. Those that it
    finds less than `least_log_odds` nats likelier than the word are left out. The caption has to
    read on after them as it does. Words of several tokens are left alone: half of one has no
    meaning.
    """
    # The name of a special token is plain text in a caption.
    encoded = caption_decoder.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True
    )
    ids = encoded["input_ids"]
    if not ids:
        return []
    log_own = caption_decoder.log_probabilities(seen, ids)
    own = log_own.exp()
    # One picture at a time: the probabilities of all words at all places are many.
    other = torch.zeros_like(own)
    for one in others:
        other += caption_decoder.log_probabilities(one[None], ids).exp() / len(others)
    divergence = torch.xlogy(own, own / other.clamp_min(1e-9)).sum(-1)
    # From logarithms: a language model that is sure rounds the probability of other words to 0.
    written = torch.tensor(ids, device=own.device)[:, None]
    log_odds = log_own - log_own.gather(1, written)
    nats = log_own - other.clamp_min(1e-9).log()
    shifted = (nats - nats.gather(1, written)).abs() >= _LEAST_SHIFT
    decided = (divergence >= _LEAST_DIVERGENCE)[:, None] | shifted
    possible = decided & (other >= _LEAST_PROBABILITY) & (log_odds >= least_log_odds)
    expected = ((own + other) / 2).masked_fill(~possible, 0)
    places = []
    for at, (start, end) in enumerate(encoded["offset_mapping"]):
        start += len(text[start:end]) - len(text[start:end].lstrip())
        if _is_word(text, start, end):
            decode, place = caption_decoder.tokenizer.decode, text[start:end]
            likely = expected[at].topk(min(_TRIED, expected.shape[1]))
            fitting = {
                token: word.strip()
                for token, chance in zip(likely.indices.tolist(), likely.values, strict=True)
                if chance > 0 and _fits(word := decode([token]), place, start)
            }
            if fitting:
                places.append((at, start, end, fitting))
    going_on = _going_on(
        caption_decoder, seen, ids, [(at, list(words)) for at, _, _, words in places]
    )
    found = []
    for (at, start, end, words), fluent in zip(places, going_on, strict=True):
        kept = [token for token in words if token in fluent][:per_word]
        if kept:
            odds = log_odds[at, kept].tolist()
            others_here = tuple(
                Alternative(start, end, words[token], by)
                for token, by in zip(kept, odds, strict=True)
            )
            found.append(GroundedWord(start, end, others_here))
    return found


def _going_on(
    caption_decoder: CaptionDecoder,
    seen: Tensor,
    ids: list[int],
    places: list[tuple[int, list[int]]],
) -> list[set[int]]:
    """Of the tokens that might stand at each place, those after which the caption can go on as it
    does: "at the back left." might be right, and "at the back on." is no English.
    """
    exchanged = [(at, token) for at, tokens in places for token in (ids[at], *tokens)]
    ends = [*ids[1:], caption_decoder.tokenizer.eos_token_id]
    likely = caption_decoder.next_probabilities(
        seen, ids, exchanged, [ends[at] for at, _ in exchanged]
    )
    chances = iter(likely.tolist())
    fluent = []
    for _, tokens in places:
        as_written = next(chances)
        each = [(token, next(chances)) for token in tokens]
        fluent.append({token for token, chance in each if chance >= _FLUENT * as_written})
    return fluent


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is a whole word of letters."""
    inside = text[start:end].isalpha()
    return inside and not text[:start][-1:].isalpha() and not text[end : end + 1].isalpha()


def _fits(word: str, place: str, start: int) -> bool:
    """Whether a token is a word by itself that may stand in the place of another one."""
    begins = word[:1].isspace() or start == 0
    return begins and word.strip().isalpha() and word.strip().casefold() != place.casefold()
