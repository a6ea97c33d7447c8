"""Data URLs (RFC 2397) as clients write them.

Encoders break lines, leave padding out or take the URL-safe alphabet; others put parameters,
another media type or none before the data, or percent-encode them. What the data are is for a
decoder to see.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

_HEAD = re.compile(r"\s*data:([^,]{0,500}),", re.IGNORECASE)
_WHITESPACE = b" \t\r\n\f\v"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True)
class DataURL:
    """A data URL whose data are still encoded, from `start` on."""

    url: str
    start: int
    base64: bool

    def data(self) -> bytes:
        """The data.

        Raises:
            ValueError: they are damaged.
        """
        text = self.url[self.start :]
        if not self.base64:
            return unquote_to_bytes(text)
        try:
            data = unquote_to_bytes(text) if "%" in text else text.encode("ascii")
            data = data.translate(_URL_SAFE, _WHITESPACE)
            if len(data) % 4:
                data = data.rstrip(b"=")
                data += b"=" * (-len(data) % 4)
            return base64.b64decode(data, validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise ValueError("The base64 of the image is damaged") from error


def data_url(url: str) -> DataURL | None:
    """A data URL taken apart; None if it is none."""
    head = _HEAD.match(url)
    if head is None:
        return None
    encoding = head[1].rpartition(";")[2].strip().lower()
    return DataURL(url, head.end(), encoding == "base64")
