"""`vlv eval pairs`: captions of one's own images against the captions that the images have.

Every figure is over the same images: those that have a reference and a caption by every captioner.
Controls are the captions of the first captioner on other images, and a reference against the rest.
Reads captions files; opens no captioner.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vlv.data.captioned import distinct_samples, open_captioned
from vlv.data.image_sets import ImageSet
from vlv.data.teacher.captioning import image_hash
from vlv.errors import DatasetError, ImageError
from vlv.evaluation.metrics.caption_overlap import overlap, words_of
from vlv.evaluation.metrics.clip_score import CLIPScore, clip_scores
from vlv.evaluation.metrics.statistics import (
    Array,
    Bootstrap,
    Figure,
    Ratio,
    Statistic,
    by_scene,
    mean_of,
)
from vlv.evaluation.real.captions_file import CaptionLine, captions_for
from vlv.evaluation.results import PART, Result, Row, environment
from vlv.text import printable

SCORES, LENGTHS, DIFFERENCES = "scores", "lengths and words", "differences to the first captioner"
OTHER_IMAGE, ONE_REFERENCE = "control: of another image", "control: a reference, by the others"
# Runs of so many words that stood in the same caption before are repetitions.
_RUN = 4
_NOTES = (
    "CIDEr, BLEU and ROUGE-L are pycocoevalcap's, on words split without Java; CIDEr (1.0 is what "
    "papers write as 100) weighs words by the references of these images, so compare it only "
    "between rows of one table.",
    "± is half a 95% interval, by bootstrap over images. Different words has none: fewer images "
    "have fewer words.",
)
Watch = Callable[..., Iterator[Any]]


@dataclass
class Pairs:
    """The images of a set that have references, and the names of those that were left out. hashes:
    of the files.
    """

    images: ImageSet
    numbers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    references: list[list[str]] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    """Images that have no caption to compare with."""
    refused: dict[str, str] = field(default_factory=dict)
    """Images that cannot be read, each with the reason."""

    def picture(self, at: int) -> Image.Image:
        """The decoded image of a pair."""
        return self.images[self.numbers[at]].picture()

    def only(self, kept: Sequence[int]) -> "Pairs":
        """Some of the pairs."""
        return Pairs(
            self.images,
            [self.numbers[at] for at in kept],
            [self.names[at] for at in kept],
            [self.hashes[at] for at in kept],
            [self.references[at] for at in kept],
            self.without,
            self.refused,
        )


def read_pairs(path: Path, index_folder: Path, limit: int | None, watch: Watch) -> Pairs:
    """The first `limit` images of a set with all their captions; images are not decoded.

    Raises:
        DatasetError: nothing readable is there, or no image has a caption.
    """
    images = open_captioned(path, index_folder=index_folder)
    found = Pairs(images)
    total = len(images) if limit is None else min(limit, len(images))
    numbers = watch(range(total), total=total, unit="image", description="references")
    for number, sample in distinct_samples(images, numbers, found.refused):
        if not sample.texts:
            found.without.append(sample.file_name)
            continue
        found.numbers.append(number)
        found.names.append(sample.file_name)
        found.hashes.append(image_hash(sample))
        found.references.append([" ".join(text.split()) for text in sample.texts])
    if not found.names:
        example = found.without[0] if found.without else next(iter(found.refused.values()), "")
        raise DatasetError(
            f"no image in {printable(path)} has a caption to compare with ({printable(example)}); "
            "put a text file beside each, or give a metadata.jsonl"
        )
    return found


@dataclass(frozen=True)
class Captions:
    """The captions of one captioner for all pairs, and what only its model knows: the loss of the
    references, as nats and tokens of each image.
    """

    name: str
    texts: list[str]
    loss: Ratio | None = None


@dataclass(frozen=True)
class Scored:
    """A captioner with the scores of single images, for pages that show them."""

    captions: Captions
    cider: Array
    clip: Array | None


def common(
    pairs: Pairs, files: Mapping[str, Mapping[str, CaptionLine]]
) -> tuple[Pairs, dict[str, list[str]], dict[str, list[str]]]:
    """The pairs that every captioner has a caption for, those captions, and for each captioner the
    names of the images that it has none for.

    Raises:
        DatasetError: there is no such image.
    """
    images = list(zip(pairs.names, pairs.hashes, strict=True))
    texts = {name: captions_for(lines, images) for name, lines in files.items()}
    kept = [
        at
        for at in range(len(pairs.names))
        if all(captions[at] is not None for captions in texts.values())
    ]
    missing = {
        name: [pairs.names[at] for at, text in enumerate(captions) if text is None]
        for name, captions in texts.items()
    }
    if not kept:
        raise DatasetError(
            f"no image of the set has a caption by each of {', '.join(map(printable, files))}; "
            f"the set has {printable(pairs.names[0])}, and a captions file "
            f"{printable(next(iter(next(iter(files.values()))), 'nothing'))}"
        )
    chosen = {name: [str(captions[at]) for at in kept] for name, captions in texts.items()}
    return pairs.only(kept), chosen, missing


def measure(
    pairs: Pairs,
    captioners: Sequence[Captions],
    *,
    clip: CLIPScore | None = None,
    seed: int = 0,
    watch: Watch,
) -> tuple[Result, list[Scored]]:
    """Figures of every captioner and control.

    Images that do not decode are left out before by `decodable`, where a CLIP is given.
    """
    count = len(pairs.names)
    seen = None
    if clip is not None:
        pictures = (pairs.picture(at) for at in range(count))
        seen = clip.pictures(
            watch(pictures, total=count, unit="image", description="pictures by CLIP")
        )
    bootstrap = Bootstrap(count, seed)
    rows: list[Row] = []
    lengths: list[Row] = []
    scored: list[Scored] = []
    statistics: dict[str, dict[str, Statistic]] = {}
    for one in captioners:
        found = overlap(one.texts, pairs.references)
        said = clip_scores(seen, clip.captions(one.texts)) if clip and seen is not None else None
        scored.append(Scored(one, found.cider, said))
        statistics[one.name] = own = found.statistics() | _more(said, one.loss)
        rows.append(_row(SCORES, one.name, count, bootstrap, own))
        lengths.append(_lengths(one.name, [[text] for text in one.texts], bootstrap))
    first = captioners[0]
    if count > 1:
        others = [*first.texts[1:], first.texts[0]]
        shifted = overlap(others, pairs.references)
        said = clip_scores(seen, clip.captions(others)) if clip and seen is not None else None
        control = shifted.statistics() | _more(said, None)
        rows.append(_row(SCORES, OTHER_IMAGE, count, bootstrap, control))
    rows += _of_references(pairs, seed)
    lengths.append(_lengths("references", pairs.references, bootstrap))
    return (
        Result(
            name="pairs",
            title="Captions of images that have captions",
            paper="no counterpart: the paper rates captions by a judge",
            rows=[*rows, *_differences(captioners, statistics, bootstrap, count), *lengths],
            notes=[*_NOTES, *_loss_notes(captioners)],
            provenance={"environment": environment()},
        ),
        scored,
    )


def decodable(pairs: Pairs, watch: Watch) -> Pairs:
    """The pairs whose images decode; the others are added to `refused`."""
    kept = []
    total = len(pairs.names)
    for at in watch(range(total), total=total, unit="image", description="decoding"):
        try:
            pairs.picture(at)
        except (ImageError, DatasetError) as error:
            pairs.refused[pairs.names[at]] = str(error)
        else:
            kept.append(at)
    if not kept:
        raise DatasetError(f"no image decodes: {next(iter(pairs.refused.values()))}")
    return pairs.only(kept)


def _more(said: Array | None, loss: Ratio | None) -> dict[str, Statistic]:
    statistics = {}
    if said is not None:
        statistics["clip_score"] = _ratio(mean_of(said))
    if loss is not None:
        statistics["caption_loss"] = _ratio(loss)
    return statistics


def _ratio(ratio: Ratio) -> Statistic:
    return lambda weights: (weights @ ratio.over) / (weights @ ratio.under)


def _row(
    part: str, name: str, count: int, bootstrap: Bootstrap, statistics: Mapping[str, Statistic]
) -> Row:
    figures = {figure: bootstrap.of(statistic) for figure, statistic in statistics.items()}
    return Row({PART: part, "captions": name}, count, figures)


def _of_references(pairs: Pairs, seed: int) -> list[Row]:
    """How a person's caption scores against other persons'; none where images have one caption."""
    several = [texts for texts in pairs.references if len(texts) > 1]
    if len(several) < 2:
        return []
    found = overlap([texts[0] for texts in several], [texts[1:] for texts in several])
    bootstrap = Bootstrap(len(several), seed)
    return [_row(SCORES, ONE_REFERENCE, len(several), bootstrap, found.statistics())]


def _differences(
    captioners: Sequence[Captions],
    statistics: Mapping[str, Mapping[str, Statistic]],
    bootstrap: Bootstrap,
    count: int,
) -> list[Row]:
    """Each other captioner minus the first one, over the same images."""
    first, rows = statistics[captioners[0].name], []
    for one in captioners[1:]:
        own = statistics[one.name]
        gaps = {name: _minus(own[name], first[name]) for name in own if name in first}
        rows.append(_row(DIFFERENCES, one.name, count, bootstrap, gaps))
    return rows


def _minus(a: Statistic, b: Statistic) -> Statistic:
    return lambda weights: a(weights) - b(weights)


def _lengths(name: str, images: Sequence[Sequence[str]], bootstrap: Bootstrap) -> Row:
    """Of the texts of each image: one caption, or all references."""
    split = [[words_of(text) for text in texts] for texts in images]
    runs = [[_runs(words) for words in texts] for texts in split]
    times = Counter(text for texts in images for text in texts)
    number = by_scene(len(texts) for texts in images)
    length = by_scene(sum(map(len, texts)) for texts in split)
    ratios = {
        "words": Ratio(length, number),
        "repeated": Ratio(
            by_scene(sum(len(run) - len(set(run)) for run in texts) for texts in runs),
            by_scene(sum(map(len, texts)) for texts in runs),
        ),
        "distinct_share": Ratio(
            by_scene(sum(len(set(words)) for words in texts) for texts in split), length
        ),
        "same_text": Ratio(
            by_scene(sum(times[text] > 1 for text in texts) for texts in images), number
        ),
    }
    figures = bootstrap.figures(ratios)
    vocabulary = {word for texts in split for words in texts for word in words}
    figures["vocabulary"] = Figure(float(len(vocabulary)))
    return Row({PART: LENGTHS, "captions": name}, len(images), figures)


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[at:] for at in range(_RUN)), strict=False))


def _loss_notes(captioners: Sequence[Captions]) -> list[str]:
    if all(one.loss is None for one in captioners):
        return []
    return [
        "Loss: nats per token of the references, the end token among them, under the model; models "
        "with other tokenizers have other tokens."
    ]
