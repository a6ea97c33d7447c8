"""FiftyOne: a folder that it imports as `fiftyone.types.LegacyFiftyOneDataset`, and exports.

A sample has the field `caption`, and in `sentences` a classification for each sentence: its label
is the verdict, its confidence that of the verdict, and `text`, `start` and `end` say which it is.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlv.errors import ConfigError
from vlv.integrations.sentence_marks.records import (
    LabelledCaption,
    LabelledSentence,
    MarkedCaption,
    objects_of,
    text_of,
)
from vlv.verification.verdicts import SentenceSupport

SAMPLES = "samples.json"
_METADATA = "metadata.json"


def write(marked: Sequence[MarkedCaption], folder: Path) -> None:
    """Write the folder. Raises ConfigError for an image that is no file of its own."""
    content = {"samples": [_sample(one) for one in marked]}
    metadata = {"name": "vlv", "media_type": "image"}
    for name, value in ((SAMPLES, content), (_METADATA, metadata)):
        # Escapes also stand for the bytes of a file name that is no text.
        (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="ascii")


def read(sample: dict[str, Any]) -> LabelledCaption | None:
    """The labels of a sample in an export; None for one without."""
    marks = sample.get("sentences")
    if marks is None:
        return None
    sentences = [
        LabelledSentence(text_of(one, "text"), text_of(one, "label"))
        for one in objects_of(marks, "classifications")
    ]
    return LabelledCaption(text_of(sample, "filepath"), sentences)


def _sample(one: MarkedCaption) -> dict[str, Any]:
    if one.file is None:
        raise ConfigError(
            f"FiftyOne shows image files, and {one.checked.name} lies in a dataset; extract its "
            "images with `vlv data convert`, or use --output-format label-studio"
        )
    return {
        "filepath": str(one.file),
        "tags": [],
        "caption": one.checked.caption,
        "in_distribution": one.checked.in_distribution,
        "sentences": {
            "_cls": "Classifications",
            "classifications": [_classification(mark) for mark in one.checked.sentences],
        },
    }


def _classification(mark: SentenceSupport) -> dict[str, Any]:
    true = mark.probability
    return {
        "_cls": "Classification",
        "tags": [],
        "label": mark.verdict,
        "confidence": true if true is None or mark.supported else 1 - true,
        "text": mark.text,
        "start": mark.start,
        "end": mark.end,
        "reason": mark.reason,
    }
