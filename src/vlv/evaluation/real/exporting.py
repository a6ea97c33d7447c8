"""Captions in the forms that benchmarks of detailed captions read.

Each form is that of the benchmark's own repository, as its readme and its evaluation script have
it. Images are known by other names there, which are made of the file name; a name that two images
would share is an error.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vlv.errors import ConfigError, DatasetError
from vlv.evaluation.real.captions_file import CaptionLine
from vlv.evaluation.real.pairs import Pairs
from vlv.files import write_json
from vlv.text import printable

_NUMBER = re.compile(r"(\d+)$")


class Form(NamedTuple):
    """How an image is called, what the file holds, and whether references are part of it."""

    key: Callable[[str], str | int]
    content: Callable[[Mapping[Any, str], Mapping[Any, Sequence[str]]], Any]
    with_references: bool = False


def file_name(name: str) -> str:
    """`photos/a.jpg` -> `a.jpg`."""
    return PurePosixPath(name).name


def stem(name: str) -> str:
    """`photos/nat_001.jpg` -> `nat_001`."""
    return PurePosixPath(name).stem


def coco_id(name: str) -> int:
    """`COCO_val2014_000000000042.jpg` -> 42.

    Raises:
        DatasetError: the name does not end in a number.
    """
    found = _NUMBER.search(stem(name))
    if found is None:
        raise DatasetError(
            f"{printable(name)} ends in no number, which is an image's id in the format coco"
        )
    return int(found[1])


FORMATS = {
    # {"nat_001": caption}: the ids of the data set (qa.py --caption-path).
    "captionqa": Form(stem, lambda captions, _: dict(captions)),
    # {"000000000802.jpg": caption} (evaluate.py --longcap_file).
    "comprecap": Form(file_name, lambda captions, _: dict(captions)),
    # {"test_02765.jpg": caption} (caparena_auto_eval.py --result_path).
    "caparena": Form(file_name, lambda captions, _: dict(captions)),
    # What CAPTURE().compute_score(refs, preds) takes: each key has a list.
    "detailcaps": Form(
        file_name,
        lambda captions, references: {
            "preds": {key: [text] for key, text in captions.items()},
            "refs": {key: list(references[key]) for key in captions},
        },
        with_references=True,
    ),
    # What PoSh().evaluate(generations=..., references=...) takes, with the names beside them.
    "posh": Form(
        file_name,
        lambda captions, references: {
            "names": list(captions),
            "generations": list(captions.values()),
            "references": [references[key][0] for key in captions],
        },
        with_references=True,
    ),
    # Results of COCO's caption evaluation (pycocotools' loadRes).
    "coco": Form(
        coco_id,
        lambda captions, _: [{"image_id": key, "caption": text} for key, text in captions.items()],
    ),
}


def export(
    captions: Mapping[str, CaptionLine], name: str, out: Path, pairs: Pairs | None = None
) -> int:
    """Write captions in one of `FORMATS`; returns how many.

    pairs: the set with the references, for formats that have them; captions of other images are
    left out then.

    Raises:
        ConfigError: no such format, or references are missing or not part of it.
        DatasetError: two images would have one name, or none has a reference.
    """
    if name not in FORMATS:
        raise ConfigError(f"there is no format {name!r}; the formats are {', '.join(FORMATS)}")
    form = FORMATS[name]
    if form.with_references and pairs is None:
        raise ConfigError(f"the format {name} holds references too; name their set, --references")
    if not form.with_references and pairs is not None:
        raise ConfigError(f"the format {name} holds no references; leave out --references")
    known = _references(form, pairs)
    chosen: dict[str | int, str] = {}
    for image, line in captions.items():
        key = form.key(image)
        if form.with_references and key not in known:
            continue
        if key in chosen:
            raise DatasetError(
                f"two images would be called {printable(str(key))} in the format {name}; caption "
                "them into two files"
            )
        chosen[key] = line.text
    if not chosen:
        raise DatasetError("no caption is of an image that has a reference")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, form.content(chosen, known))
    return len(chosen)


def _references(form: Form, pairs: Pairs | None) -> dict[str | int, list[str]]:
    if pairs is None:
        return {}
    known: dict[str | int, list[str]] = {}
    for image, texts in zip(pairs.names, pairs.references, strict=True):
        if known.setdefault(form.key(image), texts) is not texts:
            raise DatasetError(
                f"two images with references would be called {printable(str(form.key(image)))}; "
                "put them into two sets"
            )
    return known
