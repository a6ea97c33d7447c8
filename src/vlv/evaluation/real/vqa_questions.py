"""Questions and answers in the files of VQAv2 and OK-VQA, and the examples before a question.

Questions of VQA give images by number. An image is then known by the number at the end of its
file's name: COCO_val2014_000000262148.jpg and 000000262148.jpg are image 262148. Questions of other
sets may give file names instead.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vlv.data.images import EXTENSIONS
from vlv.errors import ConfigError, DatasetError
from vlv.evaluation.real.arena_images import draw
from vlv.evaluation.real.captions_file import CaptionLine, read_captions
from vlv.text import printable

_NUMBER = re.compile(r"\d+$")
# Of a number that is written as a text.
_DIGITS = 100

ImageId = int | str
"""How questions name an image: its number, or the name of its file without folder and extension."""


@dataclass(frozen=True)
class VQAQuestion:
    """A question about an image, with the answers of people (ten in VQA)."""

    id: int
    image: ImageId
    text: str
    answers: tuple[str, ...]
    kind: str
    """Of the answer: yes/no, number or other."""

    @property
    def best(self) -> str:
        """The answer that most people gave."""
        return Counter(self.answers).most_common(1)[0][0]


def read_questions(questions: Path, annotations: Path) -> list[VQAQuestion]:
    """The questions that have answers, in the order of the file.

    Raises:
        DatasetError: a file cannot be read, or is not of this form.
    """
    asked = _by_id(questions, "questions")
    answered = _by_id(annotations, "annotations")
    found = []
    try:
        for number, entry in asked.items():
            known = answered.get(number)
            if known is not None:
                answers = tuple(str(one["answer"]) for one in known["answers"])
                kind = str(known.get("answer_type", "other"))
                image = _image_id(questions, entry["image_id"])
                if answers:
                    found.append(VQAQuestion(number, image, str(entry["question"]), answers, kind))
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{printable(questions)} and {printable(annotations)} are no questions and answers of "
            f"VQA ({error!r})"
        ) from error
    if not found:
        raise DatasetError(
            f"no question of {printable(questions)} has answers in {printable(annotations)}; name "
            "the two files of one split"
        )
    return found


def _entries(path: Path, field: str) -> list[dict[str, Any]]:
    # Annotations of VQAv2 are larger than other JSON is allowed to be.
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{printable(path)} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{printable(path)} is not JSON ({error})") from error
    entries = data.get(field) if isinstance(data, dict) else None
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise DatasetError(f'{printable(path)} holds no list "{field}", as the files of VQA do')
    return entries


def _by_id(path: Path, field: str) -> dict[int, dict[str, Any]]:
    """The entries by the ids of their questions, in the order of the file. One that is there twice
    counts once.
    """
    found: dict[int, dict[str, Any]] = {}
    for entry in _entries(path, field):
        number = _whole(entry.get("question_id"))
        if number is None:
            raise DatasetError(
                f"{printable(path)} has the question_id {_shown(entry.get('question_id'))}, which "
                "is no whole number; give each question one, and its annotation the same"
            )
        if found.setdefault(number, entry) != entry:
            raise DatasetError(
                f"{printable(path)} has two {field} with the question_id {number} that differ; "
                "give each question an id of its own"
            )
    return found


def _whole(value: Any) -> int | None:
    """A whole number, which may be written as a text; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= _DIGITS:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value: Any) -> str:
    return printable(json.dumps(value)[:80])


def _image_id(path: Path, value: Any) -> ImageId:
    number = _whole(value)
    if number is not None:
        return number
    if isinstance(value, str):
        return _image_name(value)
    raise DatasetError(
        f"{printable(path)} has the image_id {_shown(value)}, which is no whole number and no name "
        "of a file; give the image's number or the name of its file"
    )


def _image_name(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def _image_number(name: str) -> int | None:
    found = _NUMBER.search(PurePosixPath(name).stem)
    return int(found.group()) if found else None


def identifier(questions: Iterable[VQAQuestion]) -> Callable[[str], ImageId | None]:
    """What gives the image of a file as these questions name it: by number if they all do; None for
    a file without one.
    """
    if all(isinstance(one.image, int) for one in questions):
        return _image_number
    return _image_name


def captions_by_image(path: Path, questions: Iterable[VQAQuestion]) -> dict[ImageId, str]:
    """Image -> caption, of a captions file, with images as the questions name them.

    Raises:
        DatasetError: the file cannot be read, has no number where questions have one, or two
            captions of one image.
    """
    lines: Mapping[str, CaptionLine] = read_captions(path)
    identify = identifier(questions)
    found: dict[ImageId, str] = {}
    for name, line in lines.items():
        image = identify(name)
        if image is None or not line.text:
            continue
        if found.setdefault(image, line.text) != line.text:
            raise DatasetError(
                f"{printable(path)} has two captions of image {image}, one of "
                f"them of {printable(name)}; give image_id the names of files that differ"
            )
    if not found:
        raise DatasetError(
            f"the questions name images by number, and {printable(path)} has no file whose name "
            f"ends in one, as 000000262148.jpg does, but {printable(next(iter(lines)))}; name "
            "files so, or give their names as image_id in the questions"
        )
    return found


@dataclass
class Examples:
    """Training questions to draw examples from. captions: captioner -> image -> caption."""

    questions: Sequence[VQAQuestion]
    captions: Mapping[str, Mapping[ImageId, str]]
    seed: int

    def __post_init__(self) -> None:
        shared = set.intersection(*(set(texts) for texts in self.captions.values()))
        self.questions = [one for one in self.questions if one.image in shared and one.answers]

    def drawn(self, question: VQAQuestion, count: int) -> list[VQAQuestion]:
        """Examples for a question, the same for every captioner and in every run.

        Raises:
            ConfigError: there are not so many.
        """
        if count == 0:
            return []
        usable = [one for one in self._some(question, 4 * count) if one.image != question.image]
        if len(usable) < count:
            raise ConfigError(
                f"{count} shots need as many training questions whose images every captioner of "
                f"--shot-captions describes; there are {len(usable)}"
            )
        return usable[:count]

    def _some(self, question: VQAQuestion, count: int) -> Iterable[VQAQuestion]:
        """Different questions at places that a hash gives; all of them where there are few."""
        total = len(self.questions)
        if total <= 2 * count:
            return sorted(self.questions, key=lambda one: draw(self.seed, question.id, one.id))
        places: dict[int, None] = {}
        number = 0
        while len(places) < count:
            places[int(draw(self.seed, question.id, number)[:15], 16) % total] = None
            number += 1
        return (self.questions[place] for place in places)
