"""Preferences between two words at one place of a caption, as stage `preferences` learns from them.

A file has a line of JSON for each caption: those of pairs, which are learned as they are, and those
that a model sampled of pictures without captions, with words that might stand there instead and
what each judge says of the exchange. Knows no model: `vlv.training.preference_making` judges.

Shapes: P preferences that an item has room for, L longest caption in tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vlv.errors import TrainingError
from vlv.models.caption_tokens import caption_ids
from vlv.training.batched_lines import read_lines
from vlv.training.samples.data_order import numpy_generator
from vlv.training.samples.images import ImageStore
from vlv.training.samples.source import Batch, SampleSource
from vlv.training.samples.tokens import CaptionTokens

Judge = Literal["decoder", "truth", "random"]


@dataclass(frozen=True)
class Exchange:
    """`word` in place of caption[start:end].

    log_odds: how much likelier the model that wrote the caption finds it there, in nats. gains: at
    each level of noise, by which share of itself the decoder's error falls; none where it was not
    asked. error: the standard error of their mean over draws of noise. truth: how many more of the
    caption's claims are true, in the embedded world; None elsewhere.
    """

    start: int
    end: int
    word: str
    log_odds: float
    gains: tuple[float, ...]
    error: float | None = None
    truth: int | None = None

    @property
    def gain(self) -> float:
        """The mean over levels; 0 where the decoder was not asked."""
        return sum(self.gains) / max(len(self.gains), 1)

    def of(self, caption: str) -> str:
        """The caption with the word exchanged."""
        return caption[: self.start] + self.word + caption[self.end :]


@dataclass(frozen=True)
class JudgedCaption:
    """A caption of picture `index`: its own where `pair`, otherwise a sample of the model with its
    exchanges. An empty one is of a picture that was refused.
    """

    index: int
    caption: str
    pair: bool
    exchanges: tuple[Exchange, ...] = ()

    def __post_init__(self) -> None:
        for at in self.exchanges:
            if not (0 <= at.start < at.end <= len(self.caption) and at.word):
                raise ValueError(
                    f"characters {at.start} to {at.end} of a caption of {len(self.caption)} are "
                    f"exchanged for {at.word!r}"
                )


@dataclass(frozen=True)
class Preferring:
    """How exchanges become preferences. judge: decides which of the two words is better: the
    decoder, the truth, or chance. least_gain: what the decoder's error has to fall or rise by, as a
    share of itself; chance decides the same exchanges as the decoder does.
    """

    judge: Judge
    least_gain: float
    seed: int

    def preferences(self, one: JudgedCaption) -> list[tuple[Exchange, bool]]:
        """The exchanges that are decided, each with whether its word is better than the caption's.

        Raises TrainingError where the truth is asked for and the file does not have it.
        """
        coin = numpy_generator(self.seed, one.index, "preference")
        decided = []
        for exchange in one.exchanges:
            heads = bool(coin.integers(2))
            if self.judge == "truth":
                if exchange.truth is None:
                    raise TrainingError(
                        "judge: truth needs preferences in the embedded world, and these say "
                        f"nothing of the truth of caption {one.index}"
                    )
                if exchange.truth:
                    decided.append((exchange, exchange.truth > 0))
            elif exchange.gains and abs(exchange.gain) >= self.least_gain:
                better = heads if self.judge == "random" else exchange.gain > 0
                decided.append((exchange, better))
        return decided


def read_preferences(path: Path) -> list[JudgedCaption]:
    """Raises TrainingError for a file that holds something else."""
    return read_lines(path, JudgedCaption, "judged caption")


class PreferenceSamples(SampleSource):
    """Pictures of a store with the captions of a file and their preferences. Captions of which
    nothing is decided are left out. A pair is seen instead at a share `pair_share` of positions.
    """

    def __init__(
        self,
        store: ImageStore,
        path: Path,
        tokens: CaptionTokens,
        preferring: Preferring,
        pair_share: float,
    ) -> None:
        """Raises TrainingError where nothing is decided."""
        captions = [one for one in read_preferences(path) if one.caption]
        self._pairs = [one for one in captions if one.pair]
        self._decided = [(one, found) for one in captions if (found := preferring.preferences(one))]
        if not self._decided:
            raise TrainingError(
                f"{path} has no preferences by judge: {preferring.judge} of at least "
                f"{preferring.least_gain:g}; lower least_gain, or make the file of more pictures"
            )
        self.preferences = sum(len(found) for _, found in self._decided)
        self._room = max(len(found) for _, found in self._decided)
        self._store = store
        self._tokens = tokens
        self._seed = preferring.seed
        self._pair_share = pair_share if self._pairs else 0.0
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        self._fingerprint = f"{store.fingerprint or 'world'}-{digest}"

    @property
    def fingerprint(self) -> str | None:
        return self._fingerprint

    def __len__(self) -> int:
        return len(self._decided)

    def item(self, position: int, index: int) -> Batch:
        """`supervised` is 1 for a caption that is learned as it is. Of preference p, `place[p]` is
        the token that is exchanged, `preferred[p]` and `rejected[p]` the two tokens, and
        `log_odds[p]` those of the first against the second by the model that wrote the caption;
        `counts[p]` is 1, or 0 where there are no more.
        """
        chance = numpy_generator(self._seed, position, "pair")
        if chance.random() < self._pair_share:
            decided: list[tuple[Exchange, bool]] = []
            one = self._pairs[int(chance.integers(len(self._pairs)))]
        else:
            one, decided = self._decided[index]
        item = self._store.view(one.index).item
        if float(item.get("refused", 0)):
            raise TrainingError(
                f"picture {one.index} was good when its caption was judged, and is refused now; "
                "bring back the set as it was"
            )
        return {
            **item,
            **self._tokens.item(one.caption),
            "supervised": torch.tensor(float(one.pair)),
            **self._preferences(one.caption, decided),
        }

    def _preferences(self, caption: str, decided: Sequence[tuple[Exchange, bool]]) -> Batch:
        texts = [caption, *(exchange.of(caption) for exchange, _ in decided)]
        ids, lengths = caption_ids(self._tokens.tokenizer, texts, self._tokens.max_tokens)
        tokens = {
            name: torch.zeros(self._room, dtype=torch.long)
            for name in ("place", "preferred", "rejected")
        }
        log_odds, counts = torch.zeros(self._room), torch.zeros(self._room)
        for at, (exchange, better) in enumerate(decided):
            shared = int(min(lengths[0], lengths[at + 1]))
            differs = (ids[0, :shared] != ids[at + 1, :shared]).nonzero()
            if not len(differs):
                continue  # it is behind the last token that is read
            place = int(differs[0])
            written, other = ids[0, place], ids[at + 1, place]
            tokens["place"][at] = place
            tokens["preferred"][at], tokens["rejected"][at] = (
                (other, written) if better else (written, other)
            )
            log_odds[at] = exchange.log_odds if better else -exchange.log_odds
            counts[at] = 1
        return {**tokens, "log_odds": log_odds, "counts": counts}
