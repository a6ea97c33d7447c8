"""The samples of shards and tables wherever they lie: a file in a store is fetched first.

Reads as `vlv.data.lenient` does: a damaged sample, and a file that the store does not give, stop
nothing else.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vlv.data.lenient import Unusable, shard_samples, table_samples
from vlv.data.remote.locations import SetFile, on_disk, set_file
from vlv.data.remote.store import StoreError, content_if_there, shown
from vlv.data.samples import Sample, parse_object
from vlv.data.shards import stats_beside
from vlv.errors import DatasetError

NOT_FETCHED = "not-fetched"
"""The reason of what a store did not give: another run may get it."""


def lenient_samples(file: SetFile) -> Iterator[Sample | Unusable]:
    """The samples of a shard (.tar) or a table (.parquet), each with an image.

    Raises:
        ConfigError: what reads it is needed and not installed.
    """
    if file.suffix.lower() == ".tar":
        return fetched_shard(file)
    return (sample for _, sample in fetched_rows(file))


def stats_of(file: SetFile) -> dict[str, Any] | None:
    """The `_stats.json` beside a shard, as img2dataset writes it; None if there is none.

    Raises:
        DatasetError: they are damaged, or the store gives no answer.
    """
    if isinstance(file, Path):
        return stats_beside(file)
    if "?" in file.url:  # the signature of one file opens no other
        return None
    url = f"{file.url.removesuffix(file.suffix)}_stats.json"
    data = content_if_there(url)
    return None if data is None else parse_object(data, shown(url))


def fetched_shard(file: SetFile | str) -> Iterator[Sample | Unusable]:
    """As `vlv.data.lenient.shard_samples`, of a shard or of its address."""
    try:
        file = set_file(file) if isinstance(file, str) else file
        stats = None if isinstance(file, Path) else stats_of(file)
    except DatasetError as error:
        return iter([_lost(error)])
    return fetched(file, partial(shard_samples, stats=stats))


def fetched(
    file: SetFile | str, read: Callable[[Path], Iterator[Sample | Unusable]]
) -> Iterator[Sample | Unusable]:
    """What `read` gives of a file, or of its address."""
    try:
        file = set_file(file) if isinstance(file, str) else file
        with on_disk(file) as path:
            for sample in read(path):
                yield _named(sample, path, file)
    except DatasetError as error:
        yield _lost(error)


def fetched_rows(
    file: SetFile | str, groups: Iterable[int] | None = None, first: int = 0
) -> Iterator[tuple[int, Sample | Unusable]]:
    """As `vlv.data.lenient.table_samples`, of a table or of its address."""
    try:
        file = set_file(file) if isinstance(file, str) else file
        with on_disk(file) as path:
            for row, sample in table_samples(path, groups, first):
                yield row, _named(sample, path, file)
    except DatasetError as error:
        yield first, _lost(error)


def _lost(error: DatasetError) -> Unusable:
    """A file of which nothing is read; one that its store did not give may be good."""
    if isinstance(error, StoreError):
        return Unusable("damaged", str(error), NOT_FETCHED, is_damage=True)
    return Unusable("damaged", str(error), is_damage=True)


def _named(sample: Sample | Unusable, path: Path, file: SetFile) -> Sample | Unusable:
    """The sample with the file's own name in its message, instead of that of its copy."""
    if isinstance(sample, Unusable):
        return replace(sample, message=sample.message.replace(str(path), str(file)))
    if sample.caption_problem is not None:
        problem = sample.caption_problem.replace(str(path), str(file))
        return replace(sample, caption_problem=problem)
    return sample
