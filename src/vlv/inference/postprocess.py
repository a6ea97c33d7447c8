"""Cleaning of captions after generation, as the authors do it: whole sentences, each once.

A model that was trained on an end token seldom needs it. By default only captions that reached the
limit of tokens are cleaned.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from vlv.sentences import split_sentences

_FINISHED = re.compile(r"[.!?][\"')\]”’]*$")
_PUNCTUATION = tuple(",.;:!?")
# A full stop at the end that is not part of an ellipsis.
_FULL_STOP = re.compile(r"(?<!\.)\.$")
_AFTER_SIGN = re.compile(r"(?<=[.!?])\s+")


def drop_unfinished_sentence(text: str) -> str:
    """The text without an unfinished last sentence; a text of one sentence is kept."""
    sentences = split_sentences(text)
    if len(sentences) > 1 and not _FINISHED.search(sentences[-1]):
        sentences.pop()
    return " ".join(sentences)


def drop_repeated_sentences(text: str) -> str:
    """The text with each sentence once, at its first place; case and white space are ignored."""
    first: dict[str, str] = {}
    for sentence in split_sentences(text):
        first.setdefault(" ".join(sentence.casefold().split()), sentence)
    return " ".join(first.values())


def cut_after_last_full_stop(text: str) -> str:
    """The authors' rule: drop what follows the last ".". Other punctuation does not end a caption,
    and a text without "." is kept.
    """
    return text[: text.rindex(".") + 1] if "." in text else text


def drop_equal_sentences(text: str) -> str:
    """The authors' rule: split at white space after . ! or ?, and keep equal pieces once; they are
    equal only to the letter.
    """
    return " ".join(dict.fromkeys(_AFTER_SIGN.split(text)))


@dataclass(frozen=True)
class Rules:
    """How an unfinished sentence and repeated sentences are dropped."""

    unfinished: Callable[[str], str]
    repeated: Callable[[str], str]


CAREFUL = Rules(drop_unfinished_sentence, drop_repeated_sentences)
AUTHORS = Rules(cut_after_last_full_stop, drop_equal_sentences)


@dataclass(frozen=True)
class Cleaning:
    """What is dropped: in all captions (True), in none (False), or in those cut off (None)."""

    drop_unfinished: bool | None = None
    drop_repeated: bool | None = None
    rules: Rules = CAREFUL

    def apply(self, caption: str, ended: bool) -> str:
        """The cleaned caption on one line; ended: whether the model ended it by itself."""
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

    A space separates them. If `append` begins with punctuation, as tags do, there is no space, and
    the full stop at the end of the caption is dropped.
    """
    after = " ".join(append.split())
    text = " ".join(caption.split())
    if after.startswith(_PUNCTUATION):
        text = _FULL_STOP.sub("", text)
    before = " ".join(f"{prepend} {text}".split())
    return f"{before}{'' if after[:1] in _PUNCTUATION else ' '}{after}".strip()
