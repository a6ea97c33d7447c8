"""`vlv eval vqa SET`: questions about real images answered from captions alone (Table 3).

A language model sees the caption and never the image, after 0, 4 or 32 examples with captions of
the same captioner. Its answers are compared with those of people as VQA does (vqa_accuracy.py).
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlv.endpoints.chat import Chat
from vlv.errors import ConfigError, DatasetError
from vlv.evaluation.metrics.statistics import Array, Bootstrap, Ratio, sums_by_scene
from vlv.evaluation.real.judging import Judge
from vlv.evaluation.real.vqa_accuracy import accuracy
from vlv.evaluation.real.vqa_questions import Examples, ImageId, VQAQuestion, identifier
from vlv.evaluation.results import PART, Label, Result, Row
from vlv.text import printable

INSTRUCTION = (
    "You answer questions about a picture that you do not see: all you know of it is a "
    "description. Answer with one word or a short phrase and nothing else; yes or no to a question "
    "that asks for it, and a digit for a number. Where the description does not say, give the "
    "likeliest answer."
)
_TOKENS = 24
_PREFIX = re.compile(r"^\W*(short )?answer\s*:\s*", re.IGNORECASE)
_DATASETS = (
    "The paper reports for VLV with 0, 4 and 32 shots 58.55, 61.72 and 63.60 on VQAv2, and 45.31, "
    "54.10 and 60.25 on OK-VQA (Table 3), as exact match, by another language model and prompt."
)


@dataclass
class VQA:
    """Questions with captions. captions: captioner -> image -> caption.

    left_out: questions about images that are not in the set or have no caption.
    """

    source: Path
    questions: Sequence[VQAQuestion]
    captions: Mapping[str, Mapping[ImageId, str]]
    shots: Sequence[int]
    examples: Examples | None = None
    seed: int = 0
    left_out: int = field(default=0, init=False)

    def files(self, names: Iterable[str]) -> dict[ImageId, str]:
        """Image -> file, of the files that the questions are about.

        Raises:
            DatasetError: two files are one image for the questions.
        """
        identify, asked = identifier(self.questions), {one.image for one in self.questions}
        found: dict[ImageId, str] = {}
        for name in names:
            image = identify(name)
            if image is None or image not in asked:
                continue
            if found.setdefault(image, name) != name:
                raise DatasetError(
                    f"{printable(found[image])} and {printable(name)} of {self.source} are both "
                    f"{image} for the questions; give image_id the names of files that differ"
                )
        return found

    def keep(self, names: Sequence[str], limit: int | None) -> None:
        """Keep the questions about images of these files that every captioner describes.

        Raises:
            DatasetError: there are none, or as `files`.
            ConfigError: shots are asked for without examples.
        """
        known = set(self.files(names)).intersection(
            *(set(texts) for texts in self.captions.values())
        )
        kept = [one for one in self.questions if one.image in known]
        self.left_out = len(self.questions) - len(kept)
        if not kept:
            raise DatasetError(
                f"no question is about an image of {self.source} that every captioner describes; "
                f"the first one is about {printable(str(self.questions[0].image))}, and the set "
                f"has {printable(next(iter(names), 'no image'))}"
            )
        self.questions = kept[:limit]
        if any(self.shots) and self.examples is None:
            raise ConfigError(
                "--shots above 0 need --shot-questions, --shot-annotations and --shot-captions"
            )

    @cached_property
    def drawn(self) -> dict[int, list[VQAQuestion]]:
        """Question -> its examples, of which fewer shots take the first ones."""
        most = max(self.shots)
        if self.examples is None:
            return {one.id: [] for one in self.questions}
        return {one.id: self.examples.drawn(one, most) for one in self.questions}

    def chats(self, judge: Judge) -> Iterator[Chat]:
        """A question to the model for each captioner, number of shots and question."""
        for captioner in self.captions:
            for shots in self.shots:
                for question in self.questions:
                    yield Chat(
                        name=chat_name(captioner, shots, question),
                        model=judge.model,
                        instruction=INSTRUCTION,
                        text=self._prompt(captioner, shots, question),
                        max_tokens=_TOKENS,
                        scope=judge.name,
                        extra=judge.extra_body,
                    )

    def _prompt(self, captioner: str, shots: int, question: VQAQuestion) -> str:
        blocks = []
        if shots and self.examples is not None:
            texts = self.examples.captions[captioner]
            for one in self.drawn[question.id][:shots]:
                blocks.append(_block(texts[one.image], one.text, f" {one.best}"))
        blocks.append(_block(self.captions[captioner][question.image], question.text, ""))
        return "\n\n".join(blocks)


def _block(caption: str, question: str, answer: str) -> str:
    return f"Description: {caption}\nQuestion: {question}\nAnswer:{answer}"


def chat_name(captioner: str, shots: int, question: VQAQuestion) -> str:
    """Of a question to the model."""
    return f"{question.id} ({captioner}, {shots} shots)"


def answer_in(text: str) -> str:
    """The short answer in what a model wrote: its first line that says something."""
    lines = (_PREFIX.sub("", line).strip(" \t*\"'`") for line in text.splitlines())
    return next((line for line in lines if line), "")


def answer_lines(vqa: VQA, values: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    """One JSON object for each answer, with its accuracy."""
    for model, answers in values.items():
        for captioner in vqa.captions:
            for shots in vqa.shots:
                for question in vqa.questions:
                    text = answers.get(chat_name(captioner, shots, question))
                    if text is not None:
                        answer = answer_in(text)
                        yield {
                            "question_id": question.id,
                            "image_id": question.image,
                            "captioner": captioner,
                            "model": model,
                            "shots": shots,
                            "question": question.text,
                            "answer": answer,
                            "accuracy": accuracy(answer, question.answers),
                            "best": question.best,
                        }


def vqa_result(
    vqa: VQA,
    values: Mapping[str, Mapping[str, str]],
    refused: Sequence[str],
    provenance: dict[str, Any],
) -> Result:
    """Accuracy by model, captioner and shots; by kind of answer; and differences.

    A question without a usable answer counts as wrong where the model refused, and is left out
    where it was not asked. refused: the questions of the first kind, `model: name` each.
    """
    rows: list[Row] = []
    differences: list[Row] = []
    for model, answers in values.items():
        own = f"{model}: "
        failed = {name.removeprefix(own) for name in refused if name.startswith(own)}
        for shots in vqa.shots:
            scored = _scored(vqa, shots, answers, failed)
            if scored.questions:
                labels: dict[str, Label] = {"model": model, "shots": shots}
                rows += _accuracy_rows(scored, labels)
                differences += _difference_rows(scored, labels)
    notes = [
        "Accuracy as VQA computes it, over ten answers of people; exact: the answer that most "
        "people gave. Intervals are from resampled images, whose questions stay together.",
        _DATASETS,
    ]
    if vqa.left_out:
        notes.append(f"{vqa.left_out:,} questions are about images without a caption.")
    if refused:
        notes.append(f"{len(refused):,} questions got no usable answer, which counts as wrong.")
    return Result(
        name="vqa",
        title="Questions about real images answered from captions only",
        paper="Table 3",
        rows=rows + differences,
        notes=notes,
        provenance=provenance,
    )


@dataclass(frozen=True)
class _Scored:
    """Questions that all captioners were asked, and the accuracy of each by captioner (m,)."""

    questions: list[VQAQuestion]
    accuracies: dict[str, Array]
    exact: dict[str, Array]
    """Whether the answer is the one that most people gave."""
    seed: int

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Of each question its image."""
        images = [one.image for one in self.questions]
        place = {image: at for at, image in enumerate(dict.fromkeys(images))}
        return np.array([place[image] for image in images], np.int64)

    @cached_property
    def _images(self) -> int:
        return len(set(self._places.tolist()))

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """Over images: the questions of one share its caption."""
        return Bootstrap(self._images, self.seed)

    def ratio(self, scores: Array, kind: str | None = None) -> Ratio:
        """Scores of answers (m,) image by image, of all questions or of those of one kind."""
        counted = np.array([kind in (None, one.kind) for one in self.questions], np.float64)
        right = scores * counted
        over, under = (
            sums_by_scene(values, self._places, self._images) for values in (right, counted)
        )
        return Ratio(over, under)


def _scored(vqa: VQA, shots: int, answers: Mapping[str, str], failed: Collection[str]) -> _Scored:
    asked = [
        one
        for one in vqa.questions
        if all(
            (name := chat_name(captioner, shots, one)) in answers or name in failed
            for captioner in vqa.captions
        )
    ]

    accuracies, exact = {}, {}
    for captioner in vqa.captions:
        said = [answer_in(answers.get(chat_name(captioner, shots, one), "")) for one in asked]
        pairs = list(zip(said, asked, strict=True))
        accuracies[captioner] = np.array([accuracy(text, one.answers) for text, one in pairs])
        exact[captioner] = np.array([accuracy(text, [one.best]) > 0 for text, one in pairs], float)
    return _Scored(asked, accuracies, exact, vqa.seed)


def _accuracy_rows(scored: _Scored, labels: Mapping[str, Label]) -> Iterator[Row]:
    kinds = sorted({one.kind for one in scored.questions})
    figure = scored.bootstrap.figure
    for name, scores in scored.accuracies.items():
        figures = {"accuracy": figure(scored.ratio(scores))}
        figures |= {"exact": figure(scored.ratio(scored.exact[name]))}
        figures |= {kind: figure(scored.ratio(scores, kind)) for kind in kinds}
        own: dict[str, Label] = {PART: "accuracy", **labels, "captions": name}
        yield Row(own, len(scored.questions), figures)


def _difference_rows(scored: _Scored, labels: Mapping[str, Label]) -> Iterator[Row]:
    for first, second in combinations(scored.accuracies, 2):
        gap = scored.bootstrap.difference(
            *(scored.ratio(scored.accuracies[name]) for name in (first, second))
        )
        own: dict[str, Label] = {
            PART: "differences",
            **labels,
            "captions": f"{first} minus {second}",
        }
        yield Row(own, len(scored.questions), {"accuracy": gap})
