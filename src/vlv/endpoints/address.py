"""Where a server is, and the key that it gets. Neither may reach a message or a file with a secret
in it.
"""

import os
from urllib.parse import urlsplit, urlunsplit

from vlv.errors import ConfigError
from vlv.text import printable


def address_below(base_url: str, path: str) -> str:
    """The address of a path of a server's. A query, such as `?api-version=1`, stays behind it.

    Raises:
        ConfigError: the base is no address.
    """
    if not base_url.startswith(("http://", "https://")):
        raise ConfigError(
            f"--base-url is {printable(base_url)!r}, and begins with http:// or https://, as "
            "in http://localhost:8000/v1"
        )
    try:
        parts = urlsplit(base_url)
    except ValueError as error:
        raise ConfigError(f"--base-url is no valid address ({error})") from error
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))


def shown_address(url: str) -> str:
    """An address for messages and records: without user, password and query, where keys may be."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no valid address)"
    if not parts.netloc:  # its scheme was left out, and a name and a password may come first
        return printable(url.partition("?")[0].rpartition("@")[2])
    place = parts.netloc.rpartition("@")[2]
    return printable(urlunsplit(parts._replace(netloc=place, query="", fragment="")))


def key_in(variable: str) -> str | None:
    """The key in an environment variable, without blanks at its ends; None if there is none.

    Raises:
        ConfigError: it holds signs that no header can.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"the key in {variable} holds a sign that is not in ASCII, or a line break; copy it "
            "again from where it was made"
        )
    return key or None
