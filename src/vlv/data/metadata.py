"""The picture in an image file, without the metadata around it.

Decoders fail on metadata that no picture needs: long texts, broken profiles, wrong lengths and
checksums. So they get only the data of the pixels. The few facts that change how pixels are shown
are read here, each of bounded size. Damaged metadata is skipped, as in viewers. Decodes nothing.
"""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vlv.color import MAX_PROFILE_BYTES

_MAX_EXIF_BYTES = 1_000_000
# Places to continue at that are tried after a chunk of wrong length.
_MAX_TRIES = 16


@dataclass(frozen=True)
class Stripped:
    """A file of only the pixels, and the other facts that matter, as in Pillow's `Image.info`."""

    data: bytes
    info: dict[str, Any] = field(default_factory=dict)


def without_metadata(data: bytes, format: str) -> Stripped:
    """The data that a decoder needs of a file in this format; a damaged file stays damaged."""
    strip = _STRIP.get(format)
    return Stripped(data) if strip is None else strip(data)


def _keep_exif(info: dict[str, Any], exif: bytes) -> None:
    if len(exif) <= _MAX_EXIF_BYTES:
        info.setdefault("exif", b"Exif\0\0" + exif.removeprefix(b"Exif\0\0"))


def _next(
    pattern: re.Pattern[bytes], data: bytes, place: int, fits: Callable[[int], bool]
) -> int | None:
    """Where the next chunk with a known name begins, after a chunk of wrong length."""
    for tried, found in enumerate(pattern.finditer(data, place)):
        if tried == _MAX_TRIES:
            return None
        if fits(found.start() - 4):
            return found.start() - 4
    return None


# PNG

_PNG_PICTURE = re.compile(rb"PLTE|tRNS|IDAT|IEND")


def _png(data: bytes) -> Stripped:
    kept, info = [data[:8]], dict[str, Any]()
    color_type = data[25] if len(data) > 25 else 0
    place, in_picture = 8, False
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        is_palette = name == b"PLTE" and color_type != 3  # then it is only a suggestion
        if name.isalpha() and name[:1].isupper() and not is_palette:
            kept.append(data[place:end])
            if name == b"IEND":
                break
            in_picture |= name == b"IDAT"
        elif _png_sound(data, place):
            content = data[place + 8 : end - 4]
            if name == b"eXIf":
                _keep_exif(info, content)
            elif name == b"tRNS" and not in_picture and _png_transparency_fits(content, color_type):
                kept.append(data[place:end])
            elif not in_picture:
                _keep_png_colors(info, name, content)
        elif not (end == len(data) or data[end + 4 : end + 8].isalpha()):
            found = _next(_PNG_PICTURE, data, place + 8, lambda start: _png_sound(data, start))
            if found is None:
                break
            end = found
        place = end
    return Stripped(b"".join(kept), info)


def _png_sound(data: bytes, place: int) -> bool:
    """Whether a chunk lies in the file as its checksum says."""
    length = int.from_bytes(data[place : place + 4], "big")
    end = place + 8 + length
    if end + 4 > len(data):
        return False
    checksum = int.from_bytes(data[end : end + 4], "big")
    return zlib.crc32(memoryview(data)[place + 4 : end]) == checksum


def _png_transparency_fits(content: bytes, color_type: int) -> bool:
    return {0: len(content) == 2, 2: len(content) == 6, 3: 0 < len(content) <= 256}.get(
        color_type, False
    )


def _keep_png_colors(info: dict[str, Any], name: bytes, content: bytes) -> None:
    if name == b"iCCP":
        profile = _unpacked_profile(content)
        if profile:
            info.setdefault("icc_profile", profile)
    elif name == b"sRGB" and len(content) == 1:
        info["srgb"] = content[0]
    elif name == b"gAMA" and len(content) == 4:
        info["gamma"] = int.from_bytes(content, "big") / 100_000
    elif name == b"cHRM" and len(content) == 32:
        info["chromaticity"] = tuple(value / 100_000 for value in struct.unpack(">8I", content))
    elif name == b"cICP" and len(content) == 4:
        info["cicp"] = (content[0], content[1])


def _unpacked_profile(content: bytes) -> bytes | None:
    _, _, packed = content.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(packed[1:], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= MAX_PROFILE_BYTES else None


# JPEG

_JPEG_MARKER = re.compile(rb"\xff+[\x01-\xfe]")
_JPEG_PROFILE = b"ICC_PROFILE\0"


def _jpeg(data: bytes) -> Stripped:
    kept, info, profile = [data[:2]], dict[str, Any](), dict[int, bytes]()
    parts = 0
    place = 2
    while found := _JPEG_MARKER.search(data, place):
        place, marker = found.end(), data[found.end() - 1]
        end = place + max(2, int.from_bytes(data[place : place + 2], "big"))
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if end > len(data) or not (is_metadata or marker in _JPEG_TABLES):
            place -= 2
            break
        content = data[place + 2 : end]
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            _keep_exif(info, content)
        elif marker == 0xE2 and content.startswith(_JPEG_PROFILE) and len(content) > 14:
            profile[content[12]], parts = content[14:], content[13]
        elif not is_metadata or _is_jpeg_color_marker(marker, content):
            kept.append(data[place - 2 : end])
        place = end
    kept.append(data[place:])
    if parts and sorted(profile) == list(range(1, parts + 1)):
        info["icc_profile"] = b"".join(profile[part] for part in sorted(profile))
    return Stripped(b"".join(kept), info)


# Frames, tables and intervals: all that comes before the first scan.
_JPEG_TABLES = {*range(0xC0, 0xD0), 0xDB, 0xDD}


def _is_jpeg_color_marker(marker: int, content: bytes) -> bool:
    """Whether this is JFIF's or Adobe's marker, which says how colours are stored."""
    is_jfif = marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14
    return is_jfif or (marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12)


# WebP

_WEBP_PICTURE = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
_WEBP_NAMES = re.compile(b"|".join(_WEBP_PICTURE))
_WEBP_METADATA_FLAGS = 0x2C  # profile, EXIF, XMP


def _webp(data: bytes) -> Stripped:
    kept, info = [], dict[str, Any]()
    place = 12
    while place + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        end = place + 8 + length + length % 2
        content = data[place + 8 : place + 8 + length]
        if name in _WEBP_PICTURE:
            if len(content) < length:
                return Stripped(data, info)
            if name == b"VP8X" and content:
                content = bytes([content[0] & ~_WEBP_METADATA_FLAGS]) + content[1:]
            kept.append(struct.pack("<4sI", name, length) + content + bytes(length % 2))
        elif len(content) < length:
            found = _next(_WEBP_NAMES, data, place + 12, lambda start: _webp_fits(data, start + 4))
            if found is None:
                break
            end = found + 4
        elif name == b"EXIF":
            _keep_exif(info, content)
        elif name == b"ICCP" and length <= MAX_PROFILE_BYTES:
            info.setdefault("icc_profile", content)
        place = end
    body = b"WEBP" + b"".join(kept)
    return Stripped(b"RIFF" + struct.pack("<I", len(body)) + body, info)


def _webp_fits(data: bytes, place: int) -> bool:
    return place + 8 + int.from_bytes(data[place + 4 : place + 8], "little") <= len(data)


# GIF

_GIF_BLOCK = re.compile(rb"[!,;]")


def _gif(data: bytes) -> Stripped:
    """The first frame only."""
    if len(data) < 13:
        return Stripped(data)
    start = 13 + _gif_table(data[10])
    kept = [data[:start]]
    place = start
    while (found := _GIF_BLOCK.search(data, place)) and found.group() != b";":
        place = found.start()
        if found.group() == b",":
            if place + 10 > len(data):
                return Stripped(data)
            end = _gif_end(data, place + 11 + _gif_table(data[place + 9]))
            kept.append(data[place:end])
            return Stripped(b"".join(kept) + (b";" if data[end - 1 : end] == b"\0" else b""))
        end = _gif_end(data, place + 2)
        # The control block of the frame; the last one counts.
        if data[place + 1 : place + 3] == b"\xf9\x04" and end == place + 8:
            kept[1:] = [data[place:end]]
        place = end
    return Stripped(data)


def _gif_table(flags: int) -> int:
    """Bytes of the next table of colours."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def _gif_end(data: bytes, place: int) -> int:
    """The end of the blocks of data that begin here."""
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return min(place + 1, len(data))


# AVIF and HEIF

# The entry of an item in the table of contents, up to its type: of EXIF, or of XMP.
_BOXES_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)", re.DOTALL)


def _boxes(data: bytes) -> Stripped:
    """Disable items of metadata; the orientation is stored with the picture in these formats."""
    place = 0
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        if name == b"meta" and size >= 8:
            meta = _BOXES_ITEM.sub(rb"\1skip", data[place : place + size])
            return Stripped(data[:place] + meta + data[place + size :])
        if size < 8:
            break
        place += size
    return Stripped(data)


_STRIP: dict[str, Callable[[bytes], Stripped]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WEBP": _webp,
    "GIF": _gif,
    "AVIF": _boxes,
    "HEIF": _boxes,
}
