"""Text of unknown origin: files in any common encoding, JSON of any shape, names on a terminal.

Knows nothing of images and models.
"""

import codecs
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlv.errors import ConfigError, VLVError

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_JSON_BYTES = 64_000_000
# Of files that a user works with: captions of a large set, labels with pictures in them.
MAX_OWN_JSON_BYTES = 4_000_000_000
MAX_JSON_DEPTH = 64
# Digits of the largest integer of 64 bits, and a sign.
_MAX_DIGITS = 20
# Of names of files.
_NOT_IN_NAMES = re.compile(r"[^\w.-]+", re.ASCII)
_LONGEST_NAME = 80
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # Before UTF-16, whose mark begins alike.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode_text(data: bytes) -> str:
    r"""The text of a file: UTF-8, what its byte order mark says, or else Windows-1252.

    Line ends become `\n`; the mark itself is no part of the text. Text in other encodings is
    refused where it can be detected: two thirds of a text in Windows-1252 are ASCII.

    Raises:
        ValueError: it is none of these; the message says so in a few words.
    """
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        high = sum(byte > 127 for byte in data)
        if encoding or high * 3 > len(data):
            raise ValueError(f"it is not {(encoding or 'utf-8').upper()} text") from error
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise ValueError("it is neither UTF-8 nor Windows-1252 text") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(
    data: str | bytes,
    where: str,
    error: type[VLVError],
    max_digits: int = _MAX_DIGITS,
    max_bytes: int = MAX_JSON_BYTES,
) -> Any:
    """A JSON value out of a file of unknown origin; `error` beginning with `where` if it is none.

    Refused as well: more than `max_bytes`, more than MAX_JSON_DEPTH levels, integers of more than
    `max_digits` (those beyond 64 bits).
    """
    if len(data) > max_bytes:
        raise error(f"{where} has more than {max_bytes // 10**6} MB of JSON")
    try:
        text = decode_text(data) if isinstance(data, bytes) else data
        value = json.loads(text, parse_int=lambda digits: _integer(digits, max_digits))
    except _TooLong as cause:
        raise error(f"{where} has {cause}; at most {max_digits} are read") from cause
    except RecursionError as cause:
        raise error(f"{where} is JSON of more than {MAX_JSON_DEPTH} levels") from cause
    except ValueError as cause:
        raise error(f"{where} is not JSON ({cause})") from cause
    if _deeper_than(value, MAX_JSON_DEPTH):
        raise error(f"{where} is JSON of more than {MAX_JSON_DEPTH} levels")
    return value


def read_json(path: Path, error: type[VLVError], max_bytes: int = MAX_JSON_BYTES) -> Any:
    """`parse_json` of a file, which is refused where it is no regular one or cannot be read."""
    data = read_start(path, max_bytes + 1, str(path), error)
    return parse_json(data, str(path), error, max_bytes=max_bytes)


def read_start(path: Path, size: int, where: str, error: type[VLVError]) -> bytes:
    """The first `size` bytes of a regular file; `error` beginning with `where` if there are none
    to read.
    """
    try:
        # Opening a pipe would wait for a writer that may never come.
        if path.exists() and not path.is_file():
            raise error(f"{where} is not a file")
        with path.open("rb") as file:
            return file.read(size)
    except OSError as cause:
        raise error(f"{where} cannot be read ({cause.strerror})") from cause


def read_object(
    path: Path, error: type[VLVError], max_bytes: int = MAX_JSON_BYTES
) -> dict[str, Any]:
    """`read_json` of a file that must hold an object."""
    value = read_json(path, error, max_bytes)
    if not isinstance(value, dict):
        raise error(f"{path} is not a JSON object")
    return value


def first_fault(error: "ValidationError", whole: str) -> str:
    """The first thing that is wrong with some settings, as "FIELD: why"; `whole` is the field's
    name if it is all of them.
    """
    fault = error.errors()[0]
    return f"{'.'.join(str(part) for part in fault['loc']) or whole}: {fault['msg']}"


def printable(text: str | os.PathLike[str]) -> str:
    r"""One line for a terminal or a log: line breaks, control characters and bytes that are no text
    are escaped, as in `a\nb`.
    """
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in os.fspath(text))


def as_text(name: str) -> str:
    """A file name of any bytes as text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 image", "1,200 images", "2 batches"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith(('ch', 'sh', 's', 'x')) else 's'}"


def begun_with(word: str, caption: str) -> str:
    """The caption with a trigger word and a comma before it, unless it begins with the word: a
    longer word that begins alike is another one. The word becomes one line, as the caption is.
    """
    word = " ".join(word.split())
    if not word or re.match(rf"{re.escape(word)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{word}, {caption}"


def well_formed(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair, which no encoding
    can write.
    """
    return "".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in text)


def json_line(record: dict[str, Any]) -> str:
    """A record as a line of a file of JSON lines, in UTF-8. A name of a file that is no text is
    escaped in it, so that readers get the same name.
    """
    line = json.dumps(record, ensure_ascii=False)
    return (line if line == well_formed(line) else json.dumps(record)) + "\n"


def plain_name(name: str) -> str:
    """A name as a name of a file; names that are alike in plain letters stay different."""
    plain = _NOT_IN_NAMES.sub("-", name)[:_LONGEST_NAME]
    if plain == name and not plain.startswith("."):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain.lstrip('.')}-{digest}"


class _TooLong(ValueError):
    """An integer."""


def _integer(digits: str, most: int) -> int:
    if len(digits) > most:
        raise _TooLong(f"an integer of {len(digits)} digits")
    return int(digits)


def _deeper_than(value: Any, levels: int) -> bool:
    here = [value]
    for _ in range(levels):
        here = [
            inner
            for one in here
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not here:
            return False
    return any(isinstance(one, dict | list) for one in here)


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def language_of(text: str) -> str:
    """The ISO 639-1 code of a text's language. Raises ConfigError without py3langid."""
    try:
        from py3langid import classify
    except ImportError as error:
        raise ConfigError(
            "telling languages needs py3langid; install it with: pip install 'vlv[data]'"
        ) from error
    return str(classify(text)[0])
