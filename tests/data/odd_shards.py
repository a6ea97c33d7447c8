"""Shards with one odd member between two good pictures, written byte by byte."""

import io
import tarfile
from pathlib import Path

from PIL import Image


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (number * 20 % 255, 50, 90)).save(file, "PNG")
    return file.getvalue()


def member(
    name: str,
    data: bytes = b"",
    type: bytes = tarfile.REGTYPE,
    size: int | None = None,
    link: str = "",
) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, link
    info.size = len(data) if size is None else size
    head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return head + data + b"\0" * (-len(data) % 512)


def long_name(name: str) -> bytes:
    return member("././@LongLink", name.encode() + b"\0", tarfile.GNUTYPE_LONGNAME)


def pax(data: bytes) -> bytes:
    return member("pax", data, tarfile.XHDTYPE)


def negative() -> bytes:
    raw = bytearray(member("m.png", png(3)))
    raw[124:136] = b"\xff" * 11 + b"\xf0"
    raw[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(raw[:512]))[0]
    return bytes(raw)


GOOD = member("m.png", png(3))
# What is odd -> what it is called where it is refused; None where it has a caption too.
ODD: dict[str, tuple[bytes, str | None]] = {
    "ten thousand long names": (b"".join([long_name("x")] * 10_000) + GOOD, "m"),
    "thousands of pax headers": (pax(b"12 path=m.p\n") * 5000 + GOOD, "m"),
    "a pax header of megabytes": (pax(b"x" * 3_000_000) + GOOD, "m"),
    "a pax header that is none": (pax(b"zz path=m\n") + GOOD, None),
    "a NUL in a name": (pax(b"16 path=m\0x.png\n") + GOOD, "m\\x00x"),
    "a name of 304 bytes": (long_name("n" * 300 + ".png") + GOOD, "n" * 60 + "..." + "n" * 60),
    "a path of 6,000 bytes": (
        long_name("d/" * 3000 + "m.png") + GOOD,
        "d/" * 30 + "..." + "/d" * 29 + "/m",
    ),
    "a name that is not UTF-8": (member("\udcff\udce9.png", png(3)), "\\xff\\xe9"),
    "an absolute name": (member("/etc/m.png", png(3)), "/etc/m"),
    "a name that leads out": (member("../m.png", png(3)), "../m"),
    "a hard link": (member("m.png", type=tarfile.LNKTYPE, link="a.png"), "m"),
    "a sparse file": (member("m.png", type=tarfile.GNUTYPE_SPARSE), "m"),
    "an absurd size": (member("m.png", png(3), size=10**12), "m"),
    "a negative size": (negative(), "damaged-1"),
    "a picture twice": (GOOD + GOOD, "m.png"),
    "dots in a name": (member("p.q.png", png(3)), "p.q.png"),
    "deep JSON": (GOOD + member("m.json", b'{"a":' * 50_000 + b"1" + b"}" * 50_000), None),
    "a number of 6,000 digits": (GOOD + member("m.json", b'{"a":' + b"9" * 6000 + b"}"), None),
    "JSON that says other types": (GOOD + member("m.json", b'{"texts": 5, "file_name": 7}'), None),
    "half surrogates": (GOOD + member("m.json", b'{"caption": "\\ud800", "\\udfff": 1}'), None),
    "NaN": (GOOD + member("m.json", b'{"caption": NaN, "a": [1e999]}'), None),
    "no JSON": (GOOD + member("m.json", b"{"), None),
    "a caption in Windows-1252": (GOOD + member("m.txt", b"It\x92s."), None),
    "a caption that is no text": (GOOD + member("m.txt", b"\x81\x8d\x8f"), None),
    "a folder where a file is": (GOOD + member("m.png/x.png", png(4)), None),
}


def odd_shard(path: Path, what: str) -> Path:
    """Two good pictures, `a` and `z`, and between them what is odd."""
    odd, _ = ODD[what]
    good = (member("a.png", png(1)), member("z.png", png(2)))
    path.write_bytes(good[0] + odd + good[1] + b"\0" * 1024)
    return path
