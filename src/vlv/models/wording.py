"""Words as tokens: what a caption has to begin with, and what must not be in it."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast


def token_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a text in which the names of special tokens are plain text."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return ids


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
