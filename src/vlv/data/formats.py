"""The format of a file by its first bytes, and whether the file's end is missing."""

import struct

from vlv.data.tiff import page_ends_early

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
# Sizes in bytes of the headers that can follow the file header of a BMP.
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format by the first bytes; None if it is unknown."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _of_boxes(data)
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)


def _of_boxes(data: bytes) -> str | None:
    """The format of HEIF and its relatives: by the main brand, or else by the other brands."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    main, others = data[8:12], [data[place : place + 4] for place in range(16, size, 4)]
    if main in _AVIF_BRANDS:
        return "AVIF"
    if main in (b"mif1", b"msf1") and any(brand in _AVIF_BRANDS for brand in others):
        return "AVIF"
    return "HEIF" if main in _HEIF_BRANDS else None


def ends_early(data: bytes) -> bool:
    """Whether the end of a file of its format is missing."""
    kind = format_of(data)
    if kind == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if kind == "BMP":
        return len(data) < int.from_bytes(data[2:6], "little")
    if kind == "TIFF":
        return page_ends_early(data)
    if kind in ("AVIF", "HEIF"):
        return _boxes_end_early(data)
    tail = data.rstrip(b"\0")[-32:]  # some writers pad
    if kind == "GIF":
        return not tail.endswith(b";")
    return {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "", b"") not in tail


def _boxes_end_early(data: bytes) -> bool:
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 1 and place + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, place + 8)
        if size == 0:  # to the end of the file
            return False
        place += max(size, 8)
    return place > len(data)
