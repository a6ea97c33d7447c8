"""HEIF files as phones write them: large pictures of tiles that are decoded one by one.

Nothing that decodes HEIF alone can write it, so one tile is kept beside this file (`files/`), and
every tile of a picture is that one.
"""

import struct
from pathlib import Path

FILES = Path(__file__).parent / "files"
SMOOTH = (FILES / "smooth.heic").read_bytes()
"""`smooth()` without loss."""
TILE = (FILES / "tile.heic").read_bytes()
"""`smooth(512, 512)`, with losses."""
SIDE = 512


def box(name: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", len(content) + 8, name) + content


def full_box(name: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(name, struct.pack(">I", version << 24 | flags), *parts)


def content_of(name: bytes) -> bytes:
    """The content of a box of the tile's file."""
    place = TILE.index(name)
    return TILE[place + 4 : place - 4 + int.from_bytes(TILE[place - 4 : place], "big")]


def tiled(width: int, height: int) -> bytes:
    """A HEIC file of this size."""
    rows, columns = -(-height // SIDE), -(-width // SIDE)
    items = list(range(1, rows * columns + 1))
    grid = len(items) + 1
    description = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    entries = [
        full_box(b"infe", struct.pack(">HH4sB", item, 0, b"hvc1", 0), version=2, flags=1)
        for item in items
    ]
    entries.append(full_box(b"infe", struct.pack(">HH4sB", grid, 0, b"grid", 0), version=2))
    properties = box(
        b"ipco",
        box(b"hvcC", content_of(b"hvcC")),
        full_box(b"ispe", struct.pack(">II", SIDE, SIDE)),
        full_box(b"ispe", struct.pack(">II", width, height)),
    )
    uses = [struct.pack(">HBBB", item, 2, 0x81, 2) for item in items]
    uses.append(struct.pack(">HBB", grid, 1, 3))
    links = struct.pack(f">HH{len(items)}H", grid, len(items), *items)
    tile = content_of(b"mdat")

    def meta(start: int) -> bytes:
        places = [struct.pack(">HHHII", item, 0, 1, start, len(tile)) for item in items]
        places.append(struct.pack(">HHHII", grid, 0, 1, start + len(tile), len(description)))
        return full_box(
            b"meta",
            full_box(b"hdlr", struct.pack(">I4s12xB", 0, b"pict", 0)),
            full_box(b"pitm", struct.pack(">H", grid)),
            full_box(b"iloc", struct.pack(">BBH", 0x44, 0, grid), *places),
            full_box(b"iinf", struct.pack(">H", grid), *entries),
            full_box(b"iref", box(b"dimg", links)),
            box(b"iprp", properties, full_box(b"ipma", struct.pack(">I", grid), *uses)),
        )

    start = box(b"ftyp", b"heic", bytes(4), b"mif1", b"heic")
    return start + meta(len(start) + len(meta(0)) + 8) + box(b"mdat", tile, description)
