"""Out-of-distribution sentences and pictures, which `vlv verify` must not call supported.

Each sentence is checked against a scene. Each picture, and each scene with something drawn over it,
is checked with the caption that the model writes of it, with a true caption of a scene, and with an
out-of-distribution sentence.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, islice

import numpy as np
from PIL import Image

from vlv.evaluation.bench import Bench
from vlv.evaluation.metrics.statistics import Bootstrap, Figure, Ratio
from vlv.evaluation.ood_pictures import other_pictures, overlaid
from vlv.evaluation.ood_sentences import OTHER_SENTENCES
from vlv.evaluation.results import Claim, Row
from vlv.verification.verdicts import SentenceSupport
from vlv.verification.verify import verify_caption

SENTENCES, PICTURES = "other sentences", "other pictures"
ALL = "all"
# The share of it that may be called supported.
_MOST_SUPPORTED = 0.02
# Scenes with something drawn over them.
_OVERLAID = 8
Marks = list[SentenceSupport]
"""Of the sentences of a text, or of the captions of a picture."""


def ood_rows(bench: Bench, most: int | None, seed: int) -> list[Row]:
    """Shares of the verdicts, by kind and over all. most: of each kind; None is all.

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


def supported_claims(rows: Iterable[Row]) -> list[Claim]:
    """Whether hardly any of it is called supported."""
    totals = {row.labels["part"]: row.figures for row in rows if row.labels["what"] == ALL}
    return [_claim(str(part), figures["supported"]) for part, figures in totals.items()]


def _claim(part: str, share: Figure) -> Claim:
    left = Figure(*(_MOST_SUPPORTED - value for value in (share.value, share.high, share.low)))
    return Claim(
        f"Of {part} hardly any is called supported.",
        "not in the paper",
        f"{_MOST_SUPPORTED} minus the share of sentences that are",
        left,
    )


def _marks_of_sentences(
    bench: Bench, sentences: Sequence[str], images: Sequence[Image.Image]
) -> list[Marks]:
    """Each sentence is checked against another scene."""
    shown = bench.progress(
        sentences, total=len(sentences), unit="sentence", description="other sentences"
    )
    return [
        verify_caption(bench.model, images[at % len(images)], sentence)
        for at, sentence in enumerate(shown)
    ]


def _marks_of_pictures(bench: Bench, pictures: Sequence[Image.Image]) -> list[Marks]:
    """Marks of the model's own caption, of a true caption of a scene, and of another sentence."""
    z = bench.model.encode(pictures)
    others = list(chain.from_iterable(OTHER_SENTENCES.values()))
    found = []
    for at, (image, own) in enumerate(zip(pictures, bench.model.caption_from_z(z), strict=True)):
        true = bench.data.captions[at % len(bench.data.captions)]
        captions = (own, true, others[at % len(others)])
        found.append([one for text in captions for one in verify_caption(bench.model, image, text)])
    return found


def _rows(part: str, kinds: dict[str, list[Marks]], seed: int) -> Iterable[Row]:
    together = {**kinds, ALL: list(chain.from_iterable(kinds.values()))}
    for kind, marks in together.items():
        yield Row({"part": part, "what": kind}, sum(map(len, marks)), _figures(marks, seed))


def _figures(marks: Sequence[Marks], seed: int) -> dict[str, Figure]:
    """Intervals are over texts or pictures, whose marks are alike."""
    bootstrap = Bootstrap(len(marks), seed)
    sizes = np.array([len(many) for many in marks], float)
    return {
        verdict: bootstrap.share(
            Ratio(
                np.array([sum(m.verdict == verdict for m in many) for many in marks], float), sizes
            )
        )
        for verdict in ("supported", "unsupported", "cannot_judge")
    }
