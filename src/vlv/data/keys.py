"""Keys of samples as a layout can hold them, each its own."""

import hashlib
from dataclasses import replace
from pathlib import PurePosixPath

from vlv.data.images import EXTENSIONS, extension_of
from vlv.data.samples import Sample

# Of the last part of a key: file systems accept 255 bytes, with an extension and a number.
_LONGEST = 240


def valid_key(key: str, layout: str) -> str:
    """A key that a layout can hold: no hidden names, no name that is too long for another extension
    or a number; in shards no dot in the last part; in shards and tables no backslash, by which a
    path leaves its folder on Windows, so that readers refuse it.
    """
    parts = [f"_{part[1:]}" if part.startswith(".") else part for part in PurePosixPath(key).parts]
    if not parts:
        return "_"
    if layout != "folder":
        parts = [part.replace("\\", "_") for part in parts]
    if layout == "webdataset":
        parts[-1] = parts[-1].replace(".", "_")
    name = parts[-1].encode()
    if len(name) > _LONGEST:  # prompts make such names
        digest = hashlib.sha256(name).hexdigest()[:8]
        parts[-1] = f"{name[: _LONGEST - 9].decode(errors='ignore')}-{digest}"
    return "/".join(parts)


class Keys:
    """The keys that samples have taken: in a folder of all of them, in a shard of its own."""

    def __init__(self, layout: str) -> None:
        self._layout = layout
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}
        """Of a key that was wanted again, the number that it got last."""

    def named(self, sample: Sample) -> Sample:
        """The sample under a valid key that no other has; the old one is `source_key` in its meta
        data. An image under the name of another kind of file gets the extension of its format.
        """
        if sample.extension.lower() not in EXTENSIONS:
            sample = replace(sample, extension=extension_of(sample.image))
        key = self._free(valid_key(sample.key, self._layout))
        if key == sample.key:
            return sample
        return replace(sample, key=key, meta={**sample.meta, "source_key": sample.key})

    def _free(self, wanted: str) -> str:
        number, key = self._last.get(wanted, 1), wanted
        while key in self._taken:
            number += 1
            key = f"{wanted}-{number}"
        self._last[wanted] = number
        self._taken.add(key)
        return key
