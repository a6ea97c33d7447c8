"""Whole answers over HTTP/1.1 for next to no computation.

A load generator on the processors of the server takes from it what it computes itself, and a
general client computes more for a request than a server does to refuse it.
"""

import asyncio
import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Wire:
    """Connections to one server, as many as there are requests at once, each used again."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: list[Connection] = []

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to JSON.

        Raises:
            OSError, asyncio.IncompleteReadError: the connection broke.
        """
        reader, writer = await self._connection()
        try:
            writer.write(
                b"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n"
                % (path.encode(), self._host.encode(), len(body))
                + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            content = await (reader.readexactly(int(length[1])) if length else _chunks(reader))
        except BaseException:
            writer.close()
            raise
        if _CLOSE.search(head):
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1]), content

    async def _connection(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    async def close(self) -> None:
        """Close what is open and not in use; later requests open anew."""
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()
        self._idle.clear()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A body that comes in chunks, each behind its length, the last of which is empty."""
    parts = []
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        parts.append((await reader.readexactly(size + 2))[:size])
        if not size:
            return b"".join(parts)
