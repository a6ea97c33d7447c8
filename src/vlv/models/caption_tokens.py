"""Captions and their tokens, by the tokenizer of a language model, wherever that model is.

Names of special tokens in a caption are plain text. Shapes: B batch, L caption tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlv.models.outputs import Caption


def caption_ids(
    tokenizer: PreTrainedTokenizerFast, captions: Sequence[str], max_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Ids (B,L) padded on the right and lengths (B,), the end token appended and counted.

    A caption over max_length tokens is cut and gets no end token: it did not end there.
    """
    end = tokenizer.eos_token_id
    rows = [
        [*ids, end][:max_length]
        for ids in tokenizer(list(captions), add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
    ]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), end, dtype=torch.long)
    for row, target in zip(rows, ids, strict=True):
        target[: len(row)] = torch.tensor(row)
    return ids, lengths


def text_of(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of tokens."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text.strip()


def caption_of(
    tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], ended: bool, start: Sequence[int] = ()
) -> Caption:
    """`CaptionDecoder.caption_of` where the language model is somewhere else."""
    return Caption(text=text_of(tokenizer, [*start, *ids]), ended=ended, tokens=len(ids))


def token_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a text in which the names of special tokens are plain text."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return ids


def start_ids(tokenizer: PreTrainedTokenizerFast, forced_start: str) -> list[int]:
    """Ids of the text that a caption begins with."""
    return token_ids(tokenizer, forced_start.strip())


def spellings(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> list[list[int]]:
    """Ids of words as given, in lower, upper and title case, at a text's start and after a blank.

    As the tokenizer spells them: it could put the same letters together from other tokens.
    """
    forms = {
        space + case(word.strip())
        for word in words
        for space in ("", " ")
        for case in (str, str.lower, str.upper, str.capitalize, str.title)
        if word.strip()
    }
    return [token_ids(tokenizer, form) for form in sorted(forms)]
