"""Samples that get new captions: the old ones are kept under other names.

Reads as `vlv.data.lenient` does: a damaged sample stops no other.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vlv.data.lenient import Unusable
from vlv.data.remote.locations import SetFile
from vlv.data.remote.samples import lenient_samples
from vlv.data.samples import Sample


def recaptioned(file: SetFile) -> Iterator[Sample | Unusable]:
    """The samples of a shard (.tar) or a table (.parquet), each with an image.

    Raises:
        ConfigError: what reads it is needed and not installed.
    """
    return map(with_old_captions, lenient_samples(file))


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
