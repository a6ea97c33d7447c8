"""Out-of-distribution detector of sentences: which ones the captions of training could say.

Two things must hold of a sentence. Its words, its first and its last one are of the training
captions. And some picture, the one in question or one of the references, makes the caption decoder
expect every token of it, alone or after sentences that hold already: the less, the more surely the
training captions put words in this order. The bounds are those that true captions keep, so that a
model is strict where its captions are alike and lenient where they are not. Knows text and
conditionings; nothing of the world.

Shapes: Q,d_T length and width of c, N pictures, L tokens of a sentence.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from vlv.checkpoints.components import read_settings, write_settings
from vlv.models.caption_decoder import CaptionDecoder
from vlv.sentences import split_sentences

SETTINGS_FILE = "vlv_sentences.json"
# Of the sentences of true captions, the share that a bound may refuse; and the one that it may
# where a sentence has words in an order that the captions do not have.
_REFUSED, _REFUSED_NEW = 0.001, 0.02
# Words in a row that are counted, the most frequent of them.
_RUN, _MOST_RUNS = 3, 100_000
_START, _END = "<s>", "</s>"
# The part of a distribution from which its tail is estimated.
_TAIL = 0.05
# Parts of the captions, each of which shows how many of its words the others lack.
_FOLDS = 5
# A sentence of more words than this many of the longest ones is refused unread.
_LONGER = 2
# Sentences before one that it is read after.
_CONTEXT = 3
_WORD = re.compile(r"\w+|[^\w\s]")
_SHOWN = 3


class SentenceDetectorSettings(BaseModel):
    """What training captions hold.

    captions: how many were counted. words, beginnings, endings: counts of words and marks, and of
    those that begin and end sentences; without case. runs: of three in a row. longest: words of the
    longest sentence. unknown: the share of a sentence's words that may be new. least: lower bound
    of the log likelihood of a sentence's least likely token. new_least, new_mean: where a run is
    new, of the least likely token and of the mean of all.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    captions: int = Field(ge=1)
    words: dict[str, int]
    beginnings: dict[str, int]
    endings: dict[str, int]
    runs: dict[str, int]
    longest: int = Field(ge=1)
    unknown: float = Field(ge=0, le=1)
    least: float = Field(le=0)
    new_least: float = Field(le=0)
    new_mean: float = Field(le=0)


@dataclass(frozen=True)
class Likelihood:
    """Log likelihoods of a sentence's tokens (L,), each under the picture that makes it likeliest;
    `words` are the tokens.
    """

    values: Tensor
    words: tuple[str, ...]

    @property
    def least(self) -> float:
        """Of the least likely token."""
        return float(self.values.min())

    @property
    def mean(self) -> float:
        """Over tokens."""
        return float(self.values.mean())


class SentenceReader:
    """Reads sentences with the caption decoder, for one picture and for others."""

    def __init__(self, caption_decoder: CaptionDecoder, seen: Tensor, others: Tensor) -> None:
        """What the caption decoder reads of the picture, (1,Q,d_T), and of N others, (N,Q,d_T)."""
        self._caption_decoder = caption_decoder
        self._pictures = [seen, *others.split(1)]

    def read(
        self, sentence: str, before: Sequence[str], enough: tuple[float, float] | None = None
    ) -> Likelihood:
        """The likelihood of a sentence alone, or after the sentences `before` it if that is better.

        enough: bounds (least, mean) beyond which no further picture is asked.
        """
        alone = self._read(sentence, "", enough)
        if not before or (enough is not None and _reaches(alone, enough)):
            return alone
        after = self._read(sentence, " ".join(before[-_CONTEXT:]) + " ", enough)
        return max(alone, after, key=lambda one: one.least)

    @torch.no_grad()
    def _read(self, sentence: str, before: str, enough: tuple[float, float] | None) -> Likelihood:
        tokenizer = self._caption_decoder.tokenizer
        # The name of a special token is plain text in a sentence.
        encoded = tokenizer(
            before + sentence,
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=True,
        )
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        own = [at for at, (_, end) in enumerate(offsets) if end > len(before)]
        if not own:  # characters that the tokenizer drops
            return Likelihood(torch.tensor([-math.inf]), (sentence,))
        words = tuple((before + sentence)[slice(*offsets[at])].strip() for at in own)
        found = Likelihood(torch.full((len(own),), -math.inf), words)
        chosen = torch.tensor(ids)[:, None]
        for picture in self._pictures:
            every = self._caption_decoder.log_probabilities(picture, ids).cpu()
            likely = every.gather(1, chosen)[own, 0]
            found = Likelihood(torch.maximum(found.values, likely), words)
            if enough is not None and _reaches(found, enough):
                break
        return found


class SentenceDetector:
    """Tells of each sentence why it cannot be judged, if it cannot."""

    def __init__(self, settings: SentenceDetectorSettings) -> None:
        self.settings = settings
        self._known = _Counts(
            Counter(settings.words),
            Counter(settings.beginnings),
            Counter(settings.endings),
            Counter(settings.runs),
        )

    @classmethod
    def fit(cls, captions: Sequence[str], read: Sequence[Likelihood]) -> "SentenceDetector":
        """From captions of training, and from how likely sentences of such captions are, at their
        own pictures and at others: what can be said is not only what is true.
        """
        folds = [_Counts.of(captions[start::_FOLDS]) for start in range(_FOLDS)]
        together = sum(folds[1:], folds[0])
        shares = [
            _unknown_share(sentence, others)
            for start, others in enumerate([together.without(fold) for fold in folds])
            for caption in captions[start::_FOLDS]
            for sentence in split_sentences(caption)
        ]
        longest = max(
            len(words_of(sentence)) for text in captions for sentence in split_sentences(text)
        )
        least, mean = [-one.least for one in read], [-one.mean for one in read]
        return cls(
            SentenceDetectorSettings(
                captions=len(captions),
                words=together.words,
                beginnings=together.beginnings,
                endings=together.endings,
                runs=dict(together.runs.most_common(_MOST_RUNS)),
                longest=longest,
                unknown=float(np.quantile(shares, 1 - _REFUSED)),
                least=min(0.0, -tail_bound(least, _REFUSED)),
                new_least=min(0.0, -tail_bound(least, _REFUSED_NEW)),
                new_mean=min(0.0, -tail_bound(mean, _REFUSED_NEW)),
            )
        )

    def reasons(self, caption: str, reader: SentenceReader) -> list[str | None]:
        """Why each sentence of a caption cannot be judged; None where it can."""
        accepted: list[str] = []
        found = []
        for sentence in split_sentences(caption):
            reason = self._of_words(sentence) or self._of_order(sentence, accepted, reader)
            if reason is None:
                accepted.append(sentence)
            found.append(reason)
        return found

    def _of_words(self, sentence: str) -> str | None:
        settings = self.settings
        words = words_of(sentence)
        if len(words) > _LONGER * settings.longest:
            return "it is longer than the sentences of the captions of training"
        if _unknown_share(sentence, self._known) <= settings.unknown:
            return None
        new = [word for word in dict.fromkeys(words) if word not in settings.words]
        if new:
            listed = ", ".join(f'"{word}"' for word in new[:_SHOWN])
            more = f" and {len(new) - _SHOWN} more" if len(new) > _SHOWN else ""
            return f"the captions of training do not have: {listed}{more}"
        if words[0] not in settings.beginnings:
            return f'no sentence of the captions of training begins with "{words[0]}"'
        return f'no sentence of the captions of training ends with "{words[-1]}"'

    def _of_order(
        self, sentence: str, accepted: Sequence[str], reader: SentenceReader
    ) -> str | None:
        settings = self.settings
        if all(run in settings.runs for run in _runs_of(words_of(sentence))):
            bounds = (settings.least, -math.inf)
        else:
            bounds = (settings.new_least, settings.new_mean)
        read = reader.read(sentence, accepted, bounds)
        if _reaches(read, bounds):
            return None
        word = read.words[int(read.values.argmin())]
        return f'the captions of training do not put words together like this, above all "{word}"'

    def save(self, folder: Path) -> None:
        """Write the settings, which are all there is."""
        write_settings(self.settings, folder / SETTINGS_FILE)

    @classmethod
    def load(cls, folder: Path) -> "SentenceDetector | None":
        """Read what `save` wrote; None in a folder of before there was one."""
        path = folder / SETTINGS_FILE
        return cls(read_settings(SentenceDetectorSettings, path)) if path.is_file() else None


def words_of(sentence: str) -> list[str]:
    """Words and single marks, without case."""
    return [word.casefold() for word in _WORD.findall(sentence)]


def tail_bound(values: Iterable[float], rate: float) -> float:
    """What a share `rate` of such values exceeds, the tail beyond 1 - `_TAIL` being exponential:
    steadier than a quantile where values are few.
    """
    array = np.fromiter(values, np.float64)
    edge = float(np.quantile(array, 1 - _TAIL))
    beyond = array[array > edge] - edge
    scale = float(beyond.mean()) if len(beyond) else 0.0
    return edge + scale * math.log(_TAIL / rate)


def _reaches(read: Likelihood, bounds: tuple[float, float]) -> bool:
    return read.least >= bounds[0] and read.mean >= bounds[1]


@dataclass(frozen=True)
class _Counts:
    words: Counter[str]
    beginnings: Counter[str]
    endings: Counter[str]
    runs: Counter[str]

    @classmethod
    def of(cls, captions: Iterable[str]) -> "_Counts":
        counts = cls(Counter(), Counter(), Counter(), Counter())
        for caption in captions:
            for sentence in split_sentences(caption):
                words = words_of(sentence)
                counts.words.update(words)
                counts.beginnings[words[0]] += 1
                counts.endings[words[-1]] += 1
                counts.runs.update(_runs_of(words))
        return counts

    def __add__(self, other: "_Counts") -> "_Counts":
        return _Counts(
            self.words + other.words,
            self.beginnings + other.beginnings,
            self.endings + other.endings,
            self.runs + other.runs,
        )

    def without(self, other: "_Counts") -> "_Counts":
        """Those that are left where the others are taken away."""
        return _Counts(
            self.words - other.words,
            self.beginnings - other.beginnings,
            self.endings - other.endings,
            self.runs - other.runs,
        )


def _runs_of(words: Sequence[str]) -> list[str]:
    """Of the words of a sentence and its ends, all that stand in a row."""
    every = [_START, *words, _END]
    return [" ".join(every[at : at + _RUN]) for at in range(len(every) - _RUN + 1)]


def _unknown_share(sentence: str, known: _Counts) -> float:
    """Of a sentence's words and its two ends."""
    words = words_of(sentence)
    new = sum(word not in known.words for word in words)
    new += (words[0] not in known.beginnings) + (words[-1] not in known.endings)
    return new / (len(words) + 2)
