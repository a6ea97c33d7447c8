"""Answers as VQA compares them, and their accuracy.

Written from the description that the authors of VQA publish (visualqa.org/evaluation): answers are
compared in lower case, without articles and full stops (but for those in decimals), with digits for
number words and with the apostrophes of contractions; other punctuation becomes a blank, but for
apostrophes and colons, and a comma between digits is dropped. An answer is right in so far as
three people gave it: min(people / 3, 1), averaged over all ten sets of nine people.
"""

import re
from collections.abc import Sequence

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am
mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't shan't she'd've
should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
you've
"""
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NOT_DECIMAL = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_BLANKS = str.maketrans(dict.fromkeys(_PUNCTUATION, " "))


def _without_some_apostrophes(word: str) -> set[str]:
    """The word with each of its apostrophes there or not, but for the word itself."""
    forms = {""}
    for sign in word:
        forms = {form + kept for form in forms for kept in ({sign, ""} if sign == "'" else {sign})}
    return forms - {word}


CONTRACTIONS = {
    form: word for word in _CONTRACTIONS.split() for form in _without_some_apostrophes(word)
}
"""Without an apostrophe -> as it is written. Words that are other words too, such as "well", are
left as they are."""


def normalized(answer: str) -> str:
    """An answer as it is compared."""
    text = answer.lower().replace("\u2019", "'")
    text = _COMMA_IN_NUMBER.sub("", text)
    text = _NOT_DECIMAL.sub("", text.translate(_BLANKS))
    words = (NUMBERS.get(word, word) for word in text.split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def accuracy(answer: str, given: Sequence[str]) -> float:
    """The accuracy of an answer, 0 to 1, by the answers that people gave (ten in VQA).

    With h of n people who gave it: h times the set without one of them, and n - h times that
    without another. A single answer leaves no such sets: then only it is right. Answers of people
    are normalized too.
    """
    if not given:
        return 0.0
    wanted = normalized(answer)
    same = sum(normalized(one) == wanted for one in given)
    count = len(given)
    if count == 1:
        return float(same)
    without, others = min((same - 1) / 3, 1.0), min(same / 3, 1.0)
    return (same * without + (count - same) * others) / count if same else 0.0
