"""Label Studio: tasks with predictions, and the labelling interface that shows them.

A sentence is a span of the caption's text, and its verdict is the label of the span. Images are
served by Label Studio's own local file serving, from the root of the disk.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vlv.integrations.sentence_marks.records import (
    VERDICTS,
    LabelledCaption,
    LabelledSentence,
    MarkedCaption,
    objects_of,
    text_of,
)
from vlv.verification.verdicts import SentenceSupport

TASKS, INTERFACE = "tasks.json", "interface.xml"
_LABELS, _TEXT = "verdict", "caption"
_COLOURS = {"supported": "#009e73", "unsupported": "#d55e00", "cannot_judge": "#888888"}


def write(marked: Sequence[MarkedCaption], folder: Path) -> None:
    """Write the tasks and the labelling interface."""
    # Escapes also stand for the bytes of a file name that is no text.
    tasks = json.dumps([_task(one) for one in marked], indent=1)
    (folder / TASKS).write_text(tasks + "\n", encoding="ascii")
    (folder / INTERFACE).write_text(interface(), encoding="utf-8")


def interface() -> str:
    """The labelling interface of a project for these tasks. The caption is above the image, which
    is shown as large as the window and would hide it.
    """
    labels = "\n".join(
        f'    <Label value="{name}" background="{_COLOURS[name]}"/>' for name in VERDICTS
    )
    return f"""<View>
  <Labels name="{_LABELS}" toName="{_TEXT}">
{labels}
  </Labels>
  <Text name="{_TEXT}" value="$caption"/>
  <Image name="image" value="$image"/>
</View>
"""


def read(task: dict[str, Any]) -> LabelledCaption | None:
    """The labels of a task in an export; None for one that nobody has submitted.

    Of several annotations the last counts. Sentences are in the order of the caption.
    """
    caption, file_name = (text_of(task["data"], name) for name in ("caption", "file_name"))
    submitted = [one for one in objects_of(task, "annotations") if not one.get("was_cancelled")]
    if not submitted:
        return None
    results = objects_of(submitted[-1], "result")
    spans = [one["value"] for one in results if one.get("from_name") == _LABELS]
    sentences = [
        LabelledSentence(caption[one["start"] : one["end"]].strip(), str(one["labels"][0]))
        for one in sorted(spans, key=lambda one: int(one["start"]))
    ]
    return LabelledCaption(file_name, sentences)


def _task(one: MarkedCaption) -> dict[str, Any]:
    checked = one.checked
    name = checked.name if one.file is None else str(one.file)
    judged = [mark.probability for mark in checked.sentences if mark.probability is not None]
    return {
        "data": {
            "image": one.data_uri() if one.file is None else _served(one.file),
            "caption": checked.caption,
            "file_name": name,
        },
        "predictions": [
            {
                "model_version": "vlv verify",
                # Tasks can be sorted by this: the worst caption first.
                **({"score": min(judged)} if judged else {}),
                "result": [
                    _result(number, mark) for number, mark in enumerate(checked.sentences, 1)
                ],
            }
        ],
    }


def _served(file: Path) -> str:
    return f"/data/local-files/?d={quote(os.fsencode(file.as_posix().lstrip('/')))}"


def _result(number: int, mark: SentenceSupport) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": f"sentence-{number}",
        "from_name": _LABELS,
        "to_name": _TEXT,
        "type": "labels",
        "value": {
            "start": mark.start,
            "end": mark.end,
            "text": mark.text,
            "labels": [mark.verdict],
        },
    }
    if mark.probability is not None:
        made["score"] = mark.probability
    if mark.reason is not None:
        made["meta"] = {"text": [mark.reason]}
    return made
