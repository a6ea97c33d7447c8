"""The first page of a TIFF file, without the data around it.

TIFF decoders fail on tags that no picture needs, and follow other pages and folders of tags. So
they get one folder with the tags that pixels need, unchanged. Decodes nothing.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vlv.color import MAX_PROFILE_BYTES
from vlv.data.metadata import Stripped

_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC = 256, 257, 258, 262
_SUBFILE, _SUBFOLDERS, _DNG_VERSION, _PROFILE = 254, 330, 50706, 34675
_STRIPS, _TILES, _TILE_SIZE = (273, 279), (324, 325), (322, 323)
# Size, samples and their meaning, compression, orientation, strips, palette, tiles, tables of JPEG.
_NEEDED = {
    *(_WIDTH, _LENGTH, _BITS, 259, _PHOTOMETRIC, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317),
    *(320, 322, 323, 324, 325, 332, 334, 338, 339, 347, 529, 530, 531, 532),
    *(512, 513, 514, 515, 519, 520, 521),
}
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MAX_VALUES = 1_000_000
_MAX_TAGS = 65535
_SMALL_TILE = 4_000_000


class CameraRawError(ValueError):
    """A camera's raw file; its first page is not the picture."""


@dataclass(frozen=True)
class _Tag:
    entry: bytes
    kind: int
    count: int
    place: int
    """The place of its values."""


class _Folder:
    """The first folder of tags of a file, in either byte order, of TIFF or BigTIFF."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = data[2:4] in (b"+\0", b"\0+")
        self.offset_format = self.order + ("Q" if self.big else "I")
        self.count_format = self.order + ("Q" if self.big else "H")
        self.entry_format = self.order + ("HHQ" if self.big else "HHI")
        self.offset_place = 8 if self.big else 4
        (self.start,) = struct.unpack_from(self.offset_format, data, self.offset_place)
        (self.count,) = struct.unpack_from(self.count_format, data, self.start)
        self.tags = dict(self._read())

    def _read(self) -> Iterator[tuple[int, _Tag]]:
        size, inline = (20, 8) if self.big else (12, 4)
        start = self.start + struct.calcsize(self.count_format)
        end = min(start + size * min(self.count, _MAX_TAGS), len(self.data))
        for place in range(start, end, size):
            entry = self.data[place : place + size]
            if len(entry) < size:
                return  # the file ends here
            name, kind, values = struct.unpack_from(self.entry_format, entry)
            where = place + size - inline
            if _BYTES.get(kind, 1) * values > inline:
                (where,) = struct.unpack_from(self.offset_format, self.data, where)
            yield name, _Tag(entry, kind, values, where)

    def numbers(self, name: int) -> tuple[int, ...]:
        """The integers of a tag; none if it is missing or damaged."""
        tag = self.tags.get(name)
        if tag is None or tag.kind not in _INTEGERS or tag.count > _MAX_VALUES:
            return ()
        try:
            form = f"{self.order}{tag.count}{_INTEGERS[tag.kind]}"
            return struct.unpack_from(form, self.data, tag.place)
        except struct.error:
            return ()

    def number(self, name: int) -> int:
        """The integer of a tag; 0 if it is missing or damaged."""
        return next(iter(self.numbers(name)), 0)

    def profile(self) -> bytes | None:
        tag = self.tags.get(_PROFILE)
        if tag is None or tag.kind not in (1, 7) or tag.count > MAX_PROFILE_BYTES:
            return None
        return self.data[tag.place : tag.place + tag.count]

    def with_only(self, names: set[int]) -> bytes:
        """The file with a new folder at its end."""
        entries = [tag.entry for name, tag in sorted(self.tags.items()) if name in names]
        padding = bytes(len(self.data) % 2)
        return b"".join(
            [
                self.data[: self.offset_place],
                struct.pack(self.offset_format, len(self.data) + len(padding)),
                self.data[self.offset_place + struct.calcsize(self.offset_format) :],
                padding,
                struct.pack(self.count_format, len(entries)),
                *entries,
                struct.pack(self.offset_format, 0),
            ]
        )


def first_page(data: bytes) -> Stripped:
    """The data of the first page that a decoder needs.

    Raises:
        CameraRawError: it is a raw file of a camera.
        ValueError: its tags are not valid.
    """
    try:
        folder = _Folder(data)
    except struct.error as error:
        raise ValueError("its folder of tags does not lie in the file") from error
    is_preview = folder.number(_SUBFILE) & 1 and _SUBFOLDERS in folder.tags
    if data[8:10] == b"CR" or _DNG_VERSION in folder.tags or is_preview:
        raise CameraRawError("its first page is a preview")
    width, length = (folder.number(name) for name in _TILE_SIZE)
    pixels = folder.number(_WIDTH) * folder.number(_LENGTH)
    if width * length > max(_SMALL_TILE, 4 * pixels):
        raise ValueError("its tiles are larger than the picture")
    info: dict[str, object] = {}
    profile = folder.profile()
    if profile:
        info["icc_profile"] = profile
    if folder.number(_BITS) == 12:
        info["white"] = 4095
    if folder.number(_PHOTOMETRIC) == 0 and _PHOTOMETRIC in folder.tags:
        info["white_is_zero"] = True
    return Stripped(folder.with_only(_NEEDED), info)


def page_ends_early(data: bytes) -> bool:
    """Whether pixels of the first page would lie beyond the end of the file."""
    try:
        folder = _Folder(data)
    except struct.error:
        return True
    return len(folder.tags) < min(folder.count, _MAX_TAGS) or any(
        start + size > len(data)
        for names in (_STRIPS, _TILES)
        for start, size in zip(*map(folder.numbers, names), strict=False)
    )
