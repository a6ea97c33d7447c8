"""The marks of labelled sentences: what a model's verifier says of each, kept in a file.

Every caption is judged as a whole, as `vlv verify` judges it, and its marks are on the disk before
the next one. Some captions are judged a second time, at the image of another caption, where none of
their sentences should be called supported. Knows models and images; what the marks are worth is
computed by sentence_result.py.

Shapes: Q,d length and width of z.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.data.lenient import Unusable
from vlv.data.teacher.captioning import image_hash
from vlv.data.teacher.sets import dataset_items
from vlv.errors import DatasetError, ImageError
from vlv.evaluation.metrics.sentence_scores import token_log_likelihoods
from vlv.evaluation.real.captions_file import IMAGE_HASH, AppendedLines, without_shard
from vlv.evaluation.real.pairs import Watch
from vlv.evaluation.real.sentence_labels import LabelledCaption, LabelledSentence, Labels
from vlv.models.vlv import VLVModel
from vlv.sentences import Span, sentence_spans
from vlv.text import printable
from vlv.verification.evidence import sentence_evidence
from vlv.verification.verdicts import SentenceSupport
from vlv.verification.verifier import Verifier
from vlv.verification.verify import verify_caption

KEY = "key"
OWN, OTHER = "own image", "image of another caption"
"""At which image a caption was judged."""


@dataclass(frozen=True)
class LabelledImage:
    """A decoded image of the set, with the hash of its file, and its labelled captions."""

    name: str
    hash: str
    picture: Image.Image
    captions: list[LabelledCaption]


@dataclass(frozen=True)
class Seen:
    """An image of the set and what the model sees in it: z (1,Q,d)."""

    image: LabelledImage
    z: Tensor
    in_distribution: bool | None


@dataclass
class Marked:
    """The records of the captions, in the order of the set, and images that gave none."""

    records: list[Mapping[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def mark_captions(
    model: VLVModel,
    verifier: Verifier,
    source: Path,
    labels: Labels,
    file: AppendedLines,
    *,
    limit: int | None,
    others: int,
    watch: Watch,
) -> Marked:
    """Judge the captions of the first `limit` labelled images that the file lacks.

    others: how many captions are judged at the image before theirs, too.

    Raises:
        DatasetError: the set cannot be read, or none of its images is labelled.
    """
    marked = Marked()
    total = len(labels.by_image) if limit is None else min(limit, len(labels.by_image))
    images = _labelled_images(source, labels, limit, marked)
    before: LabelledImage | None = None
    for image in watch(images, total=total, unit="image", description="verify"):
        first = image.captions[0]
        seen: Seen | None = None
        for caption in image.captions:
            if file.known(caption.key, image.hash) is None:
                seen = seen or _see(model, image)
                file.add([_record(model, verifier, seen, caption, image.name, OWN, caption.key)])
            marked.records.append(_labelled(file.records[caption.key], caption))
        if before is not None and others > 0:
            others -= 1
            key = f"{first.key} at {before.name}"
            if file.known(key, before.hash) is None:
                elsewhere = _see(model, before)
                file.add([_record(model, verifier, elsewhere, first, image.name, OTHER, key)])
            marked.records.append(_unlabelled(file.records[key]))
        before = image
    if not marked.records:
        example = next(iter(labels.by_image))
        raise DatasetError(
            f"no image of {printable(source)} has labelled sentences; the labels name images such "
            f"as {printable(example)}, by their paths in the set"
        )
    return marked


def _labelled_images(
    source: Path, labels: Labels, limit: int | None, marked: Marked
) -> Iterator[LabelledImage]:
    """Labels may name an image of a shard without the shard."""
    met: set[str] = set()
    for name, sample in dataset_items(source):
        if len(met) == limit:
            return
        label = name if name in labels.by_image else without_shard(name)
        if label not in labels.by_image:
            continue
        if label in met:
            marked.left_out[name] = f"{name}: the labels of {label} are those of an earlier image"
            continue
        met.add(label)
        if isinstance(sample, Unusable):
            marked.left_out[name] = sample.message
            continue
        try:
            picture = load_image(sample.image, max_pixels=MAX_OWN_PIXELS)
        except ImageError as error:
            marked.left_out[name] = f"{name}: {error}"
            continue
        yield LabelledImage(name, image_hash(sample), picture, labels.by_image[label])
    for label in labels.by_image:
        if label not in met:
            marked.left_out[label] = f"{label} has labels and is not in the set"


def _labelled(record: Mapping[str, Any], caption: LabelledCaption) -> dict[str, Any]:
    """The record with what people say now: labels may be corrected, and marks stay."""
    marks = zip(record["sentences"], caption.sentences, strict=True)
    return {**record, "sentences": [{**mark, "true": one.true} for mark, one in marks]}


def _unlabelled(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "sentences": [{**mark, "true": None} for mark in record["sentences"]]}


def _see(model: VLVModel, image: LabelledImage) -> Seen:
    z, (in_distribution,) = model.encode_and_detect(image.picture)
    return Seen(image, z, in_distribution)


def _record(
    model: VLVModel,
    verifier: Verifier,
    seen: Seen,
    caption: LabelledCaption,
    name: str,
    at: str,
    key: str,
) -> dict[str, Any]:
    text = caption.text
    marks = verify_caption(
        model, seen.image.picture, text, z=seen.z, in_distribution=seen.in_distribution
    )
    spans = sentence_spans(text)
    gains = _gains(model, verifier, seen, text, marks)
    tokens = token_log_likelihoods(model, seen.z, text)
    sentences = []
    for one in caption.sentences:
        own = [place for place, span in enumerate(spans) if _overlap(span, one)]
        read = [value for place in own for value in tokens[place]]
        sentences.append(
            {
                "text": text[one.start : one.end],
                **_together([marks[place] for place in own]),
                "gain_unrefused": max(gains[place] for place in own),
                "mean_likelihood": sum(read) / len(read) if read else None,
                "least_likelihood": min(read) if read else None,
            }
        )
    return {
        KEY: key,
        "file_name": name,
        IMAGE_HASH: seen.image.hash,
        "captioner": caption.written_by,
        "at": at,
        "in_distribution": seen.in_distribution,
        "sentences": sentences,
    }


def _gains(
    model: VLVModel, verifier: Verifier, seen: Seen, text: str, marks: list[SentenceSupport]
) -> list[float]:
    """The gain of every sentence, also of those that the marks refuse to judge."""
    known = [-mark.score for mark in marks if mark.score is not None]
    if len(known) == len(marks):
        return known
    evidence = sentence_evidence(
        model,
        seen.image.picture,
        text,
        verifier.references.to(seen.z),
        verifier.settings.verify,
        z=seen.z,
    )
    return [one.gain for one in evidence]


def _together(marks: list[SentenceSupport]) -> dict[str, Any]:
    """One mark of what people judged as one sentence and the verifier may read as several: the
    gravest of those that could be judged.
    """
    judged = [one for one in marks if one.alarm_rate is not None]
    if not judged:
        return {"judged": False, "reason": next(one.reason for one in marks)}
    worst = min(judged, key=lambda one: one.alarm_rate or 0.0)
    return {
        "judged": True,
        "gain": max(-one.score for one in judged if one.score is not None),
        "alarm_rate": worst.alarm_rate,
        "probability": min(one.probability for one in judged if one.probability is not None),
    }


def _overlap(span: Span, sentence: LabelledSentence) -> bool:
    return span.start < sentence.end and sentence.start < span.end
