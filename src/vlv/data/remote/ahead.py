"""Fetches shards before they are needed, in a thread of each process that reads them."""

import os
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from vlv.data.remote.locations import RemoteFile, SetFile
from vlv.errors import DatasetError


class _Fetcher:
    """A thread, and the files that it is still to fetch."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._waiting: SimpleQueue[RemoteFile] = SimpleQueue()
        self._known: set[RemoteFile] = set()
        # It never keeps a process from ending: a download that is cut off leaves nothing.
        Thread(target=self._run, daemon=True, name="fetch shards ahead").start()

    def add(self, file: RemoteFile) -> None:
        if file not in self._known:
            self._known.add(file)
            self._waiting.put(file)

    def _run(self) -> None:
        while True:
            file = self._waiting.get()
            # What is wrong is said where the file is read.
            with suppress(DatasetError), file.on_disk():
                pass
            self._known.discard(file)


_fetcher: _Fetcher | None = None


def fetch_ahead(file: SetFile) -> None:
    """Begin to fetch a file that lies in a store, if it is not here."""
    global _fetcher
    if not isinstance(file, RemoteFile) or file.is_on_disk():
        return
    if _fetcher is None or _fetcher.process != os.getpid():
        _fetcher = _Fetcher()
    _fetcher.add(file)
