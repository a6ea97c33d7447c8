"""Images of unknown origin, decoded in child processes that may crash, hang or run out of memory.

`DecodingPool` gives bulk jobs and the server the same pixels and refusals as
`vlv.data.images.load_image`, but a bad image can do no harm to other images. The caller limits the
number of images that wait.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from PIL import Image

from vlv.data.deadline import Deadline
from vlv.data.decoder import OUT_OF_MEMORY, READY, REPLY, REQUEST, TOO_SLOW
from vlv.data.images import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    REASONS,
    load_image,
    out_of_memory,
)
from vlv.errors import UNNAMED, ImageError, VLVError

# On the clock: a machine with many other programs needs minutes for the imports.
_START_SECONDS = 600.0
# How long a child may take to end after it has closed its socket.
_END_SECONDS = 5.0
# Memory for decoding: the file, the stored form of its pixels, and the codec's own memory.
_BYTES_PER_PIXEL = 10
_LEAST_MEMORY = 512 * 1024 * 1024
_LEAST_SECONDS = 5.0
# How many times its processor time an image may take on the clock: other programs may need most of
# the machine, but a decoder that waits for something must end.
_PATIENCE = 12
_MAX_MESSAGE_BYTES = 100_000
_INHERITED = frozenset(
    {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"}
    | {"LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV"}
)

Source = str | os.PathLike[str] | bytes


class DecodingPool:
    """Child processes that decode images, each image within a time and a memory limit.

    ```python
    with DecodingPool(workers=2) as pool:
        future = pool.submit("photo.jpg")       # from any thread; never waits
        picture = future.result()               # in asyncio: await asyncio.wrap_future(future)
    ```

    A future gives what `load_image` gives: an RGB picture, or an `ImageError`. Its `reason` can
    also be `too-slow`, `too-much-memory` or `crashed`. The child is then replaced, and other images
    are not affected: an image that runs out of memory or crashes is tried once more if earlier
    images may be the cause. Children start with the first images; idle children use no time.

    Args:
        workers: the number of images that are decoded at once, one per process.
        timeout: seconds of processor time to decode an image, so that a busy machine refuses
            none. None is enough for `max_pixels`, and at least 5. Reading, decoding and sending
            take at most 12 times as long on the clock.
        memory: bytes of address space that a child may add to its first size (Linux; other systems
            do not enforce it). None is enough for `max_pixels`, and at least 512 MB.
        max_pixels: larger images are refused by their header.
    """

    def __init__(
        self,
        workers: int = 2,
        timeout: float | None = None,
        memory: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._timeout = timeout or _LEAST_SECONDS * max(1, max_pixels / MAX_PIXELS)
        self._memory = memory or max(_LEAST_MEMORY, _BYTES_PER_PIXEL * max_pixels)
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._idle: deque[_Child] = deque()
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, source: Source) -> Future[Image.Image]:
        """Decode an image in a child; returns at once.

        Args:
            source: a path, or the bytes of a file.

        Returns:
            A future of the picture. It can be cancelled while it waits.

        Raises:
            RuntimeError: the pool is closed.
        """
        # A child keeps the working directory of its start.
        return self._threads.submit(
            self._decode, source if isinstance(source, bytes) else os.path.abspath(source)
        )

    def decode(self, source: Source) -> Image.Image:
        """Decode an image in a child, and wait for it.

        Raises:
            ImageError: the image was refused.
        """
        return self.submit(source).result()

    def close(self) -> None:
        """Cancel all images that are not finished, and end the children, within a second."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            children = list(self._children)
        for child in children:
            child.kill()
        self._threads.shutdown(wait=True)
        for child in children:
            child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _decode(self, source: str | bytes) -> Image.Image:
        if isinstance(source, bytes) and len(source) > MAX_FILE_BYTES:
            return load_image(source)  # which refuses it by its length
        try:
            return self._decode_in_child(source)
        except VLVError:
            if self._closed:
                raise CancelledError from None
            raise

    def _decode_in_child(self, source: str | bytes) -> Image.Image:
        child = self._take()
        try:
            return child.decode(source)
        except ImageError as error:
            if error.reason not in ("too-much-memory", "crashed") or child.images == 1:
                raise
        finally:
            self._give_back(child)
        # Earlier images may have left the child in a bad state, so a new child tries once more.
        child = self._start()
        try:
            return child.decode(source)
        finally:
            self._give_back(child)

    def _take(self) -> "_Child":
        """An idle child, or a new one."""
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.alive():
                    return child
                self._children.discard(child)
        return self._start()

    def _start(self) -> "_Child":
        with self._lock:
            if self._closed:
                raise CancelledError
            child = _Child(self._memory, self._timeout, self._max_pixels)
            self._children.add(child)
        try:
            child.wait_until_ready()
        except VLVError:
            self._give_back(child)
            raise
        return child

    def _give_back(self, child: "_Child") -> None:
        with self._lock:
            if child.alive():
                self._idle.append(child)
            else:
                self._children.discard(child)


def _inherited() -> dict[str, str]:
    """What a child gets of the environment: no keys, which an image that takes it over would read.

    Python and the loader of libraries are set up as here; the rest is about places and languages.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(("PYTHON", "LC_"))
    }


class _Child:
    """One `vlv.data.decoder` process and the socket to it; used by one thread at a time."""

    def __init__(self, memory: int, timeout: float, max_pixels: int) -> None:
        self._timeout = timeout
        self._patience = _PATIENCE * timeout
        self._max_pixels = max_pixels
        self.images = 0
        """The number of images that it received."""
        self._socket, theirs = socket.socketpair()
        limits = (memory, timeout, self._patience, max_pixels)
        arguments = [str(theirs.fileno()), *map(str, limits)]
        try:
            # A child of multiprocessing would import the main module of its parent.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "vlv.data.decoder", *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={
                    **_inherited(),
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    # Codecs start threads, and glibc would reserve address space for each.
                    "MALLOC_ARENA_MAX": "1",
                },
            )
        except OSError as error:
            raise VLVError(f"a process to decode images in cannot be started ({error})") from error
        finally:
            theirs.close()

    def wait_until_ready(self) -> None:
        """Wait for its imports, so that no image's time includes them."""
        try:
            self._receive(len(READY), Deadline(_START_SECONDS))
        except TimeoutError as error:
            self.end()
            raise VLVError(
                f"a process to decode images in did not start within {_START_SECONDS:g} seconds; "
                "see what keeps this machine or its disk busy"
            ) from error
        except OSError as error:
            self.end()
            raise VLVError(
                "a process to decode images in did not start; its message is on standard error"
            ) from error

    def alive(self) -> bool:
        """Whether it can decode another image."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill the process from any thread: its image fails, and `end` must still be called."""
        self._process.kill()

    def wait(self) -> None:
        """Wait for the exit status of a process that seems to end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_SECONDS)

    def end(self) -> None:
        """Kill the process and close its socket."""
        self._process.kill()
        self._socket.close()
        # A read from a hanging file system ends only when it returns, even after SIGKILL.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)

    def decode(self, source: str | bytes) -> Image.Image:
        """Decode one image. Any failure that is not a refusal ends the child."""
        self.images += 1
        name = UNNAMED if isinstance(source, bytes) else source
        try:
            answer = self._ask(source, Deadline(self._patience))
        except TimeoutError as error:
            self.end()
            message = f"{name} was not decoded within {self._patience:g} seconds"
            raise ImageError("too-slow", message) from error
        except (OSError, ValueError) as error:
            if isinstance(error, ConnectionError):
                self.wait()
            self.end()
            if self._process.returncode == OUT_OF_MEMORY:
                raise out_of_memory(name) from error
            if self._process.returncode == -TOO_SLOW:
                message = f"{name} needs more than {self._timeout:g} seconds of processor time"
                raise ImageError("too-slow", message) from error
            message = f"{name} crashed its decoder (exit status {self._process.returncode})"
            raise ImageError("crashed", message) from error
        except MemoryError as error:  # in this process
            self.end()
            raise out_of_memory(name) from error
        except BaseException:
            self.end()  # it may be in the middle of an answer
            raise
        if isinstance(answer, Image.Image):
            return answer
        if answer.reason == "too-much-memory":
            self.end()  # memory that it allocated before may be lost
        raise answer

    def _ask(self, source: str | bytes, deadline: Deadline) -> Image.Image | ImageError:
        """The answer of the child.

        Raises:
            TimeoutError: it came too late.
            OSError: the child has ended.
            ValueError: the answer is not valid.
        """
        is_path = isinstance(source, str)
        body = os.fsencode(source)
        self._socket.settimeout(deadline.left())
        self._socket.sendall(REQUEST.pack(is_path, len(body)))
        self._socket.sendall(body)
        width, height = REPLY.unpack(self._receive(REPLY.size, deadline))
        if width:
            if not 0 < width * height <= self._max_pixels:
                raise ValueError("no picture has this size")
            pixels = self._receive(3 * width * height, deadline)
            return Image.frombytes("RGB", (width, height), pixels)
        if height > _MAX_MESSAGE_BYTES:
            raise ValueError("no message has this length")
        reason, _, message = self._receive(height, deadline).decode().partition(" ")
        if reason not in REASONS:
            raise ValueError("this is no known reason")
        return ImageError(reason, message)

    def _receive(self, length: int, deadline: Deadline) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            self._socket.settimeout(deadline.left())
            received = self._socket.recv_into(view)
            if not received:
                raise ConnectionError("the child has ended")
            view = view[received:]
        return data
