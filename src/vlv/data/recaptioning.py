"""Samples that get new captions: the old ones are kept under other names.

Reads as `vlv.data.lenient` does: a damaged sample stops no other.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlv.data import lenient
from vlv.data.lenient import Unusable
from vlv.data.samples import Sample


def recaptioned(path: Path) -> Iterator[Sample | Unusable]:
    """The samples of a shard (.tar) or a table (.parquet), each with an image.

    Raises:
        ConfigError: pyarrow is needed and not installed.
    """
    return map(with_old_captions, lenient.lenient_samples(path))


def shard_samples(path: Path) -> Iterator[Sample | Unusable]:
    """`vlv.data.lenient.shard_samples`, with old captions renamed."""
    return map(with_old_captions, lenient.shard_samples(path))


def table_samples(
    path: Path, groups: Iterable[int] | None = None, first: int = 0
) -> Iterator[tuple[int, Sample | Unusable]]:
    """`vlv.data.lenient.table_samples`, with old captions renamed."""
    for row, sample in lenient.table_samples(path, groups, first):
        yield row, with_old_captions(sample)


def sample_of_cells(
    path: Path, row: int, image: Any, name: Any, caption: Any, meta: Any
) -> Sample | Unusable:
    """`vlv.data.lenient.sample_of_cells`, with old captions renamed."""
    return with_old_captions(lenient.sample_of_cells(path, row, image, name, caption, meta))


def with_old_captions(sample: Sample | Unusable) -> Sample | Unusable:
    """The sample with its captions as meta data, so that new captions do not replace them; the
    caption itself stays where it is.
    """
    if isinstance(sample, Unusable):
        return sample
    return replace(sample, meta=renamed(sample.meta, sample.caption))


def renamed(meta: dict[str, Any], caption: str | None) -> dict[str, Any]:
    """Old meta data with its captions renamed, so that new captions do not replace them."""
    rest = {name: value for name, value in meta.items() if name not in ("caption", "texts")}
    if caption:
        rest["source_caption"] = caption
    if isinstance(meta.get("texts"), list):
        rest["source_texts"] = meta["texts"]
    return rest
