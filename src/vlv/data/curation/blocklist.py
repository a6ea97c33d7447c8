"""A list of words, domains and hashes whose samples are dropped.

One entry a line; lines that begin with `#` are comments:

    word or phrase
    domain:example.com
    hash:9f86d081884c7d659a2feaa0c55ad015

A word matches as a whole word in any case, so that `cat` does not match `category`. A domain
matches its subdomains too. A hash is compared with the hashes in the metadata, and with the SHA-256
of the image file.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vlv.data.curation.columns import HASHES, found_columns
from vlv.errors import ConfigError
from vlv.text import decode_text, printable

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Blocklist:
    """Entries by kind; phrases are tuples of words."""

    phrases: frozenset[tuple[str, ...]] = frozenset()
    domains: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()

    def match(
        self, caption: str | None, meta: Mapping[str, Any], sha256: str | None = None
    ) -> str | None:
        """The first entry that a sample matches: by caption, URL, hashes; None if there is none."""
        return (
            self._phrase(caption or "")
            or self._domain(meta.get(found_columns(meta).get("url", "url")))
            or self._hash(meta, sha256)
        )

    def _phrase(self, caption: str) -> str | None:
        if not self.phrases:
            return None
        found = words(caption)
        longest = max(map(len, self.phrases))
        for start in range(len(found)):
            for length in range(1, min(longest, len(found) - start) + 1):
                if tuple(found[start : start + length]) in self.phrases:
                    return " ".join(found[start : start + length])
        return None

    def _domain(self, url: object) -> str | None:
        if not self.domains or not isinstance(url, str):
            return None
        try:
            host = (urlsplit(url).hostname or "").rstrip(".")
        except ValueError:
            return None
        parts = host.split(".")
        names = (".".join(parts[start:]) for start in range(len(parts)))
        return next((f"domain:{name}" for name in names if name in self.domains), None)

    def _hash(self, meta: Mapping[str, Any], sha256: str | None) -> str | None:
        if not self.hashes:
            return None
        values = [str(meta[name]).lower() for name in meta if name.lower() in HASHES]
        values += [sha256] if sha256 else []
        return next((f"hash:{value}" for value in values if value in self.hashes), None)


def words(text: str) -> list[str]:
    """The words of a text, in a form in which equal words are equal."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def read_blocklist(path: Path) -> Blocklist:
    """The list in a file. Raises ConfigError, which names the line, if it cannot be read."""
    try:
        text = decode_text(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--blocklist {printable(path)} cannot be read ({error})") from error
    phrases, domains, hashes = set(), set(), set()
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        kind, _, rest = entry.partition(":")
        if kind.lower() == "domain":
            domains.add(_domain(rest, f"line {number} of {printable(path)}"))
        elif kind.lower() == "hash":
            hashes.add(rest.strip().lower())
        elif found := words(entry):
            phrases.add(tuple(found))
        else:
            raise ConfigError(f"line {number} of {printable(path)} holds no word: {entry!r}")
    return Blocklist(frozenset(phrases), frozenset(domains), frozenset(hashes - {""}))


def _domain(text: str, where: str) -> str:
    """A domain as it is compared. Raises ConfigError for a link or pattern, which match nothing."""
    name = text.strip().lower().strip(".")
    if not name or re.search(r"[\s/:*@]", name):
        raise ConfigError(
            f"{where} names no domain: {text.strip()!r}; write it as in domain:example.com, which "
            "covers its subdomains"
        )
    return name
