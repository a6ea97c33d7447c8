"""Captions of a set by one captioner, into a captions file, once: what was captioned stays.

Every caption is on the disk before the next batch, so that a run that is killed continues where it
ended. A sidecar file says who captioned and how; a file is continued by the same captioner only.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from vlv.data.lenient import Unusable
from vlv.data.teacher.captioning import image_hash
from vlv.data.teacher.sets import dataset_items
from vlv.errors import ConfigError, DatasetError
from vlv.evaluation.real.captioners import Captioner
from vlv.evaluation.real.captions_file import AppendedLines, CaptionLine
from vlv.evaluation.results import environment
from vlv.files import write_json
from vlv.inference.records import ImageInput, Refused
from vlv.text import printable, read_object

T = TypeVar("T")
# Of the sidecar: what a file that is continued must have in common with the run.
_WHO = "captioner"
Watch = Callable[[Iterable[T]], Iterator[T]]


@dataclass
class CaptionRun:
    """What became of the images. known: captions that the file held before."""

    known: int = 0
    written: int = 0
    refused: list[Refused] = field(default_factory=list)
    stopped: str | None = None
    """Why images were left out that could have been captioned: a sentence."""
    signal: int | None = None


def set_items(source: Path, limit: int | None) -> Iterator[Any]:
    """The first `limit` images of a set, each with its name; damaged ones count.

    Raises:
        DatasetError: nothing readable is there.
    """
    if not source.exists():
        raise DatasetError(f"there is no file or folder {printable(source)}")
    return islice(dataset_items(source), limit)


def sidecar_of(captions: Path) -> Path:
    """`photos.jsonl` -> `photos.provenance.json`."""
    return captions.with_suffix(".provenance.json")


def missing_items(items: Iterable[Any], file: AppendedLines, run: CaptionRun) -> Iterator[Any]:
    """The images that the file lacks, as (name, hash, sample), and those that cannot be read, which
    have no hash. A picture that was replaced under its name is missing.
    """
    for name, sample in items:
        if isinstance(sample, Unusable):
            yield name, None, sample
            continue
        image = image_hash(sample)
        if file.known(name, image) is None:
            yield name, image, sample
        else:
            run.known += 1


def check_sidecar(captions: Path, about: Mapping[str, Any], source: Path) -> None:
    """Write who captions which set, or compare it with who began the file. A line names its image
    by the name in the set, and another set may have the same ones.

    Raises:
        ConfigError: the file was begun otherwise, for another set, or by another program.
    """
    sidecar = sidecar_of(captions)
    who = json.loads(json.dumps(about))
    if sidecar.is_file():
        known = read_object(sidecar, ConfigError)
        begun, images = known.get(_WHO), known.get("source")
        changed = _changed(begun if isinstance(begun, dict) else {}, who)
        if changed:
            raise ConfigError(
                f"{printable(captions)} was begun with another {' and another '.join(changed)}; "
                "name another file for these captions"
            )
        if isinstance(images, str) and Path(images).resolve() != source.resolve():
            raise ConfigError(
                f"{printable(captions)} was begun for the images of {printable(images)}; name "
                f"another file for those of {printable(source)}"
            )
        return
    if captions.exists() and captions.stat().st_size:
        raise ConfigError(
            f"{printable(captions)} exists already, and {sidecar.name}, which would say who wrote "
            "it, does not; name another file"
        )
    record = {_WHO: who, "source": str(source.absolute()), "environment": environment()}
    write_sidecar(captions, record)


def complete_sidecar(captions: Path, run: CaptionRun, totals: Mapping[str, Any]) -> None:
    """Add what became of the images, and what all captions took."""
    known = read_object(sidecar_of(captions), ConfigError)
    refused = {one.name: f"{one.reason}: {one.message}" for one in run.refused}
    write_sidecar(captions, known | {"totals": dict(totals), "refused": refused})


def write_sidecar(captions: Path, content: Mapping[str, Any]) -> None:
    """Replace the sidecar of a captions file."""
    captions.parent.mkdir(parents=True, exist_ok=True)
    write_json(sidecar_of(captions), content)


def totals_of(lines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Captions, seconds, tokens and money of all lines; None where no line knows a figure."""
    totals: dict[str, Any] = {"captions": len(lines)}
    for name, digits in (
        *(("seconds", 3), ("prompt_tokens", None), ("completion_tokens", None), ("usd", 8)),
    ):
        known = [line[name] for line in lines.values() if line.get(name) is not None]
        totals[name] = round(sum(known), digits) if known else None
    return totals


def caption_here(
    captioner: Captioner,
    items: Iterable[Any],
    file: AppendedLines,
    *,
    batch_size: int,
    watch: Watch[Any],
) -> CaptionRun:
    """Caption the images that the file lacks, batch by batch.

    items: those of `set_items`. watch: shows how many are done.
    """
    run = CaptionRun()
    for batch in _batches(watch(missing_items(items, file, run)), batch_size):
        good, hashes = [], []
        for name, image, sample in batch:
            if isinstance(sample, Unusable):
                run.refused.append(Refused(name, sample.reason, sample.message))
            else:
                good.append(ImageInput(name, sample.image))
                hashes.append(image)
        if not good:
            continue
        results, seconds = captioner.caption(good)
        lines = []
        for given, image, result in zip(good, hashes, results, strict=True):
            if isinstance(result, Refused):
                run.refused.append(_named(given.name, result))
                continue
            line = CaptionLine(
                given.name,
                result.text,
                str(captioner.about["captioner"]),
                round(seconds / len(good), 4),
                result.prompt_tokens,
                result.completion_tokens,
                image_sha256=image,
            )
            lines.append(line.record())
        file.add(lines)
        run.written += len(lines)
    return run


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch


def _named(name: str, refused: Refused) -> Refused:
    # The decoder was given bytes, which have no name.
    message = refused.message
    return Refused(name, refused.reason, message if name in message else f"{name}: {message}")


def _changed(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in {**begun, **now} if begun.get(name) != now.get(name)]
