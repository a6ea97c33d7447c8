"""What is wrong with a teacher's answer, if anything; and the caption in it.

Servers mark some refusals and cut answers themselves. The rest is found in the text: refusals in
words, loops, an instruction that is repeated back, and another language than was asked for.
"""

import re
from collections import Counter
from typing import Literal

from vlv.endpoints.asking import ONLY_THOUGHTS
from vlv.endpoints.chat import REFUSAL
from vlv.endpoints.endpoint import Answer
from vlv.text import language_of

Problem = Literal[
    "refusal",  # the teacher does not want to describe the image, or does not see one
    "truncated",  # the answer was cut at the limit of tokens
    "repetition",  # the same words again and again
    "echo",  # the instruction in place of a caption
    "language",  # not in English
    "empty",  # no words
    "only-thoughts",  # the caption did not begin before the limit of tokens
]
"""Why an answer is no caption."""

# "Sure! Here is a detailed caption of the image:" and the like, at the beginning.
_SURE = r"(sure|certainly|of course|absolutely)( thing)?[.!,:][\s*#]*"
_HEADING = r"(here(['\u2019]s| is| are)|(detailed )?(caption|description))\b[^.:\n]{0,80}:\**\s+"
_INTRODUCTION = re.compile(rf"^\W*({_SURE}({_HEADING})?|{_HEADING})", re.IGNORECASE)
# A caption as a whole in quotes; one may also begin or end with a quotation of its own.
_QUOTED = re.compile(
    "\"[^\"]*\"|\u201c[^\u201c\u201d]*\u201d|'(?:[^']|(?<=\\w)'(?=\\w))*'", re.DOTALL
)
_MARKDOWN = re.compile(r"^\s*(#+|[-*\u2022]|\d+[.)])\s+|\*\*|__|`+", re.MULTILINE)
_WORD = re.compile(r"\w+")
# Of an instruction, so many words in a row are no coincidence.
_ECHO_WORDS = 9
# Shorter texts repeat words without being in a loop.
_LOOP_WORDS = 24
# Of runs of four words, the share that has to be new; captions have above 0.9.
_NEW = 0.6
# Shorter texts are too short to tell their language.
_LANGUAGE_LETTERS = 40


def caption_in(answer: Answer) -> str:
    """The caption on one line, without introduction, marks of Markdown, and quotes around it."""
    text = _INTRODUCTION.sub("", answer.text.strip(), count=1)
    line = " ".join(_MARKDOWN.sub("", text).split())
    return line[1:-1].strip() if _QUOTED.fullmatch(line) else line


def problem_with(answer: Answer, instruction: str) -> Problem | None:
    """Why an answer is no caption; None where it is one."""
    if answer.finish == "content_filter":
        return "refusal"
    if answer.only_thoughts:
        return ONLY_THOUGHTS
    text = caption_in(answer)
    words = _WORD.findall(text.lower())
    if not words:
        return "empty"
    if REFUSAL.search(answer.text.strip()) or REFUSAL.search(text):
        return "refusal"
    # A loop ends at the limit of tokens: it is named for its cause.
    if is_loop(words):
        return "repetition"
    if answer.finish == "length":
        return "truncated"
    if _runs(words, _ECHO_WORDS) & _runs(_WORD.findall(instruction.lower()), _ECHO_WORDS):
        return "echo"
    return None if is_english(text) else "language"


def is_loop(words: list[str]) -> bool:
    """Whether a text, or its end, repeats itself."""
    return any(
        len(part) >= _LOOP_WORDS and _share_of_new(part) < _NEW for part in (words, words[-60:])
    )


def _share_of_new(words: list[str]) -> float:
    runs = list(zip(*(words[at:] for at in range(4)), strict=False))
    return len(Counter(runs)) / len(runs)


def _runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return set(zip(*(words[at:] for at in range(length)), strict=False))


def is_english(text: str) -> bool:
    """Whether a text is in English; True where it is too short to tell."""
    letters = sum(character.isalpha() for character in text)
    if letters < _LANGUAGE_LETTERS:
        return all(ord(character) < 0x250 for character in text if character.isalpha())
    return language_of(text) == "en"
