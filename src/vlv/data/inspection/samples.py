"""Samples and counts of a stream of any length in bounded memory.

What is kept depends on names and texts alone, not on their order or on the number of processes.
"""

import hashlib
import heapq
from array import array
from collections import Counter
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


def hash_of(data: bytes) -> int:
    """64 bits that depend on the data alone."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


class KeptSamples(Generic[T]):
    """A uniform sample of a stream: the items with the smallest hashes of their names."""

    def __init__(self, most: int) -> None:
        self._most = most
        # The number decides between items of one name, which need not be comparable themselves.
        self._heap: list[tuple[int, str, int, T]] = []
        self._number = 0

    def wants(self, name: str) -> bool:
        """Whether an item would be kept now. One that is not wanted now never will be."""
        return len(self._heap) < self._most or _hash_of_name(name) < -self._heap[0][0]

    def add(self, name: str, item: T) -> None:
        """Keep an item, or not."""
        if self.wants(name):
            self._number += 1
            entry = (-_hash_of_name(name), name, self._number, item)
            (heapq.heappushpop if len(self._heap) == self._most else heapq.heappush)(
                self._heap, entry
            )

    def items(self) -> list[tuple[str, T]]:
        """(name, item), in the order of names."""
        return sorted(((name, item) for _, name, _, item in self._heap), key=lambda one: one[0])


def _hash_of_name(name: str) -> int:
    return hash_of(name.encode("utf-8", "surrogateescape"))


class Duplicates:
    """How often contents occur more than once: 8 bytes an item."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, data: bytes) -> None:
        """Count an item."""
        self._hashes.append(hash_of(data))

    def counts(self) -> tuple[int, dict[int, int]]:
        """How many items repeat an earlier one, and the number of items of each hash that occurs
        more than once: the most frequent thousand.
        """
        if not self._hashes:
            return 0, {}
        hashes, counts = np.unique(np.frombuffer(self._hashes, np.uint64), return_counts=True)
        again = counts > 1
        order = np.argsort(-counts[again], kind="stable")[:1000]
        most = zip(hashes[again][order].tolist(), counts[again][order].tolist(), strict=True)
        return int((counts[again] - 1).sum()), dict(most)


class FrequentTexts:
    """The texts that may be the most frequent ones (Misra and Gries, 1982): each that makes up more
    than one in `most` of all is among them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count a text."""
        if text in self._counts or len(self._counts) < self._most:
            self._counts[text] += 1
            return
        self._counts = Counter({one: n - 1 for one, n in self._counts.items() if n > 1})

    def texts(self) -> list[str]:
        """The texts that are left."""
        return list(self._counts)
