"""The page on which people rate captions, and the ratings that come back.

The page is one file with its pictures, its text and its script: it works from a disk, without a
network. It names no captioner and no file: captions have identifiers, from which only the set and
the captions files lead back to captioners.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlv.errors import ConfigError, DatasetError, ImageError
from vlv.evaluation.real.agreement import Unit
from vlv.evaluation.real.arena import CRITERIA, RULES, SCORES
from vlv.evaluation.real.arena_images import Arena, draw
from vlv.files import write_text
from vlv.html import data_uri, render
from vlv.text import printable, read_object

_ID = 16


def caption_id(arena: Arena, image: str, captioner: str, text: str) -> str:
    """By which the page knows a caption."""
    return draw("caption", arena.seed, image, captioner, text)[:_ID]


def write_page(arena: Arena, path: Path, max_side: int) -> tuple[int, dict[str, str]]:
    """Write the page; returns the number of its images, and those left out, with the reason.

    Raises:
        DatasetError: no image is left.
    """
    images, ids, refused = [], [], {}
    for image in arena.images():
        try:
            picture = data_uri("picture.jpg", image.jpeg(max_side))
        except ImageError as error:
            refused[image.name] = f"{image.name}: {error}"
            continue
        captions = [
            {"id": caption_id(arena, image.name, captioner, text), "text": text}
            for captioner, text in image.captions.items()
        ]
        ids += [one["id"] for one in captions]
        images.append({"picture": picture, "captions": captions})
    if not images:
        raise DatasetError(f"no image of {printable(arena.source)} can be shown")
    study = {"id": study_id(ids), "images": images}
    page = render(
        "vlv.evaluation.real",
        "arena.html.j2",
        study=study,
        criteria=sorted(CRITERIA.items(), reverse=True),
        rules=RULES,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return len(images), {**arena.left_out, **refused}


def study_id(ids: Sequence[str]) -> str:
    """By which the page knows its ratings in the browser's storage."""
    return draw("study", *sorted(ids))[:_ID]


def read_ratings(arena: Arena, files: Sequence[Path]) -> dict[str, dict[Unit, int]]:
    """Rater -> unit -> score, of files that the page saved.

    Raises:
        ConfigError: a file is of other captions, or two are by one rater.
        DatasetError: a file cannot be read, or holds something else.
    """
    units = {
        caption_id(arena, image.name, captioner, text): (image.name, captioner)
        for image in arena.images()
        for captioner, text in image.captions.items()
    }
    found: dict[str, dict[Unit, int]] = {}
    for file in files:
        rater, scores = _saved(file)
        if not scores.keys() <= units.keys():
            raise ConfigError(
                f"{printable(file)} rates captions that are not among these; name the set, the "
                "captions, --seed and --limit of the page"
            )
        if rater in found:
            raise ConfigError(
                f"two files hold ratings by {printable(rater)}; keep the newer one, or change the "
                f"name in {printable(file)}"
            )
        found[rater] = {units[one]: score for one, score in scores.items()}
    return found


def _saved(file: Path) -> tuple[str, Mapping[str, int]]:
    record = read_object(file, DatasetError)
    rater, scores = record.get("rater"), record.get("scores")
    if not isinstance(rater, str) or not rater.strip() or not isinstance(scores, dict):
        raise DatasetError(
            f"{printable(file)} holds no ratings; name files that the page of --human saved"
        )
    for value in scores.values():
        if isinstance(value, bool) or value not in SCORES or not isinstance(value, int):
            raise DatasetError(
                f"{printable(file)} holds the score {json.dumps(value)[:40]}; scores are 0 to 6"
            )
    return rater.strip(), scores
