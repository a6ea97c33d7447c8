"""What `vlv verify` must not vouch for: sentences and pictures of other things than the world's.

Sentences of no caption of the world are put to scenes, each alone. Pictures of other things, and
scenes with something over them, are put to the model with the captions that it writes of them, with
true captions of scenes, and with sentences of other things.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, islice

import numpy as np
from PIL import Image

from vlv.evaluation.bench import Bench
from vlv.evaluation.metrics.statistics import Bootstrap, Figure, mean_of
from vlv.evaluation.ood_pictures import other_pictures, overlaid
from vlv.evaluation.ood_sentences import OTHER_SENTENCES
from vlv.evaluation.results import Claim, Row
from vlv.verification.verifier import SentenceSupport

SENTENCES, PICTURES = "other sentences", "other pictures"
ALL = "all"
# Of what cannot be judged, the share that may be called supported.
_VOUCHED = 0.02
# Scenes that something is put over.
_OVERLAID = 8


def unjudged_rows(bench: Bench, most: int | None, seed: int) -> list[Row]:
    """Shares of the verdicts, kind by kind and over all; of each kind at most `most`.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    images = [Image.fromarray(render) for render in bench.data.renders]
    pictures = {
        **{kind: list(named.values()) for kind, named in other_pictures().items()},
        **{f"scenes, {kind}": many for kind, many in overlaid(images[:_OVERLAID]).items()},
    }
    sentences = {
        kind: _marks_of_sentences(bench, list(islice(many, most)), images)
        for kind, many in OTHER_SENTENCES.items()
    }
    of_pictures = {
        kind: _marks_of_pictures(bench, list(islice(many, most))) for kind, many in pictures.items()
    }
    return [*_rows(SENTENCES, sentences, seed), *_rows(PICTURES, of_pictures, seed)]


def vouched_claims(rows: Iterable[Row]) -> list[Claim]:
    """Whether hardly any of it is called supported."""
    totals = {row.labels["part"]: row.figures for row in rows if row.labels["what"] == ALL}
    return [_claim(str(part), figures["supported"]) for part, figures in totals.items()]


def _claim(part: str, share: Figure) -> Claim:
    left = Figure(_VOUCHED - share.value, _VOUCHED - share.high, _VOUCHED - share.low)
    return Claim(
        f"Of {part} hardly any is called supported.",
        "not in the paper",
        f"{_VOUCHED} minus the share of sentences that are",
        left,
    )


def _marks_of_sentences(
    bench: Bench, sentences: Sequence[str], images: Sequence[Image.Image]
) -> list[SentenceSupport]:
    """Each put to another scene."""
    shown = bench.progress(
        sentences, total=len(sentences), unit="sentence", description="other sentences"
    )
    return [
        mark
        for at, sentence in enumerate(shown)
        for mark in bench.model.verify(images[at % len(images)], sentence)
    ]


def _marks_of_pictures(bench: Bench, pictures: Sequence[Image.Image]) -> list[SentenceSupport]:
    """Of the caption that the model writes, of a scene's true one, and of another sentence."""
    z = bench.model.encode(pictures)
    others = list(chain.from_iterable(OTHER_SENTENCES.values()))
    marks = []
    for at, (image, own) in enumerate(zip(pictures, bench.model.caption_from_z(z), strict=True)):
        true = bench.data.captions[at % len(bench.data.captions)]
        for caption in (own, true, others[at]):
            marks += bench.model.verify(image, caption)
    return marks


def _rows(part: str, kinds: dict[str, list[SentenceSupport]], seed: int) -> Iterable[Row]:
    together = {**kinds, ALL: list(chain.from_iterable(kinds.values()))}
    for kind, marks in together.items():
        yield Row({"part": part, "what": kind}, len(marks), _figures(marks, seed))


def _figures(marks: Sequence[SentenceSupport], seed: int) -> dict[str, Figure]:
    bootstrap = Bootstrap(len(marks), seed)
    return {
        verdict: bootstrap.figure(
            mean_of(np.array([one.verdict == verdict for one in marks], float))
        )
        for verdict in ("supported", "unsupported", "cannot_judge")
    }
