"""Mending captions after generation, as the authors do: whole sentences, each once.

Knows text only. A model that was trained on an end token seldom needs it, so by default only
captions that ran into the limit of tokens are mended.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from vlv.sentences import split_sentences

_FINISHED = re.compile(r"[.!?][\"')\]”’]*$")
_PUNCTUATION = tuple(",.;:!?")
# One full stop at the end, none of an ellipsis.
_FULL_STOP = re.compile(r"(?<!\.)\.$")
_AFTER_SIGN = re.compile(r"(?<=[.!?])\s+")


def drop_unfinished_sentence(text: str) -> str:
    """The text without a last sentence that has no end; a text that is nothing else is kept."""
    sentences = split_sentences(text)
    if len(sentences) > 1 and not _FINISHED.search(sentences[-1]):
        sentences.pop()
    return " ".join(sentences)


def drop_repeated_sentences(text: str) -> str:
    """The text with each sentence at its first place only; case and white space do not count."""
    first: dict[str, str] = {}
    for sentence in split_sentences(text):
        first.setdefault(" ".join(sentence.casefold().split()), sentence)
    return " ".join(first.values())


def cut_after_last_full_stop(text: str) -> str:
    """The authors' rule: what follows the last "." goes, other signs do not end a caption, and a
    text without any "." is kept.
    """
    return text[: text.rindex(".") + 1] if "." in text else text


def drop_equal_sentences(text: str) -> str:
    """The authors' rule: parts that white space after . ! or ? separates, each once; they repeat
    only where they are equal to the letter.
    """
    return " ".join(dict.fromkeys(_AFTER_SIGN.split(text)))


@dataclass(frozen=True)
class Rules:
    """How an unfinished sentence, and repeated ones, are dropped."""

    unfinished: Callable[[str], str]
    repeated: Callable[[str], str]


CAREFUL = Rules(drop_unfinished_sentence, drop_repeated_sentences)
AUTHORS = Rules(cut_after_last_full_stop, drop_equal_sentences)


@dataclass(frozen=True)
class Cleaning:
    """What is mended in which captions: in all (True), none, or those that were cut off (None)."""

    drop_unfinished: bool | None = None
    drop_repeated: bool | None = None
    rules: Rules = CAREFUL

    def apply(self, caption: str, ended: bool) -> str:
        """The caption on one line, mended as asked; `ended` says whether it ended by itself."""
        text = caption.strip()
        if _wanted(self.drop_unfinished, ended):
            text = self.rules.unfinished(text)
        if _wanted(self.drop_repeated, ended):
            text = self.rules.repeated(text)
        return " ".join(text.split())


def _wanted(switch: bool | None, ended: bool) -> bool:
    return not ended if switch is None else switch


def surround(caption: str, prepend: str = "", append: str = "") -> str:
    """The caption between two fixed texts, such as a trigger word, on one line.

    A space separates them. Where `append` goes on with punctuation, as tags do, there is none, and
    the full stop that ends the caption gives way.
    """
    after = " ".join(append.split())
    text = " ".join(caption.split())
    if after.startswith(_PUNCTUATION):
        text = _FULL_STOP.sub("", text)
    before = " ".join(f"{prepend} {text}".split())
    return f"{before}{'' if after[:1] in _PUNCTUATION else ' '}{after}".strip()
