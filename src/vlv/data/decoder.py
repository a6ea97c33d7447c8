"""The child process of `vlv.data.isolated`: decodes one image after another until its parent ends.

Run as `python -m vlv.data.decoder SOCKET MEMORY TIMEOUT PATIENCE MAX_PIXELS`. It answers only with
numbers, text and pixels, so that a child that an image has taken over can give wrong answers, but
cannot attack its parent.
"""

import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import AvifImagePlugin, Image

from vlv.data.images import load_image, out_of_memory
from vlv.errors import UNNAMED, ImageError

# Parent to child: whether a path or the bytes of a file follow, and how many bytes.
REQUEST = struct.Struct("!?I")
# Child to parent: width and height, then the pixels (RGB, row by row); or 0 and the length of
# "reason message".
REPLY = struct.Struct("!II")
READY = b"r"
# The exit status if there is not even memory for an answer.
OUT_OF_MEMORY = 3
# The signal that ends a child whose image has used up its processor time.
TOO_SLOW = signal.SIGPROF

_STRIP_PIXELS = 1_000_000


def main() -> None:
    """Serve the parent's socket."""
    descriptor, memory, max_pixels = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[5])
    timeout, patience = float(sys.argv[3]), float(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    # Both end this process inside any codec.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(TOO_SLOW, signal.SIG_DFL)
    _limit(memory)
    # Each image has a process; more threads would only use more memory.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with socket.socket(fileno=descriptor) as parent:
        parent.sendall(READY)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs write about broken files there
        while header := parent.recv(REQUEST.size, socket.MSG_WAITALL):
            # In case the parent is gone.
            signal.setitimer(signal.ITIMER_REAL, patience + 1)
            is_path, length = REQUEST.unpack(header)
            _answer(parent, is_path, length, memory, timeout, max_pixels)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(
    parent: socket.socket,
    is_path: bool,
    length: int,
    memory: int,
    timeout: float,
    max_pixels: int,
) -> None:
    body = parent.recv(length, socket.MSG_WAITALL)
    source = os.fsdecode(body) if is_path else body
    try:
        with _at_most(timeout):
            picture = load_image(source, max_pixels=max_pixels)
    except ImageError as error:
        if error.reason in ("corrupt", "truncated") and _was_short(memory):
            error = out_of_memory(str(source) if is_path else UNNAMED)
        text = f"{error.reason} {error}".encode(errors="replace")
        parent.sendall(REPLY.pack(0, len(text)) + text)
        return
    parent.sendall(REPLY.pack(*picture.size))
    for strip in _strips(picture):
        parent.sendall(strip)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End this process where the block takes more processor time. It is over before an answer is
    sent, so that no other image pays for this one.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _strips(picture: Image.Image) -> Iterator[bytes]:
    """The pixels in strips, without a second copy of all of them."""
    width, height = picture.size
    rows, columns = max(1, _STRIP_PIXELS // width), min(width, _STRIP_PIXELS)
    for top in range(0, height, rows):
        # A strip of several rows has whole rows.
        for left in range(0, width, columns):
            box = (left, top, min(left + columns, width), min(top + rows, height))
            yield picture.crop(box).tobytes()


def _limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        limit = _address_space("VmSize") + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _was_short(memory: int) -> bool:
    """Whether memory may have run out: codecs report that in the same way as bad data.

    No codec asks for half of the memory at once, so half was in use before.
    """
    if sys.platform != "linux":
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return _address_space("VmPeak") > limit - memory // 2


def _address_space(field: str) -> int:
    """Bytes that this process uses (`VmSize`), or has used at most (`VmPeak`)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


if __name__ == "__main__":
    try:
        main()
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
    except ConnectionError:
        pass  # the parent has gone
