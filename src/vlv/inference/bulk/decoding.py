"""The images of a shard at the encoder's size, decoded ahead of the work on them.

Of a file in a folder it is kept what tells whether it changes, for images and for refusals.
"""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vlv.data.isolated import DecodingPool
from vlv.errors import ImageError
from vlv.inference.bulk.changes import hash_as_seen, seen
from vlv.inference.bulk.job import Job
from vlv.inference.bulk.output import Record, is_failure
from vlv.inference.bulk.reading import gone
from vlv.inference.encoding import Pixels as Picture
from vlv.inference.records import ImageInput, Refused
from vlv.models.config import EncoderSettings
from vlv.models.preprocessing import encoder_pixels


@dataclass(frozen=True)
class _RefusedFile(Refused):
    """The refusal of a file, and its size and time before it was read (`seen`)."""

    seen: list[int] | None


@dataclass(frozen=True)
class Decoded:
    """An image at the encoder's size, and of a file in a folder what tells whether it changes."""

    pixels: Picture
    source: Record


# An image, or the refusal of it.
Pixels = Decoded | Refused


class ImageDecoder:
    """Processes that decode, and threads that shrink what they made."""

    def __init__(self, job: Job, encoder: EncoderSettings, workers: int) -> None:
        self._job = job
        self._encoder = encoder
        self._pool = DecodingPool(workers=workers, max_pixels=job.max_pixels)
        # Each thread waits for a decoder and shrinks its picture before it asks for the next one:
        # few pictures lie in memory at full size.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="shrink")

    def begin(self, item: ImageInput) -> Future[Pixels]:
        """Decode an image when a decoder is free."""
        return self._threads.submit(self._decode, item)

    def close(self) -> None:
        """End the processes; images that wait are not decoded."""
        self._threads.shutdown(cancel_futures=True)
        self._pool.close()

    def _decode(self, item: ImageInput) -> Pixels:
        before = self._state_of(item)
        try:
            picture = self._pool.decode(item.file)
        except ImageError as error:
            if isinstance(item.image, Path) and not os.path.lexists(item.image):
                return gone(item.name)
            if self._job.kind == "folder":
                return _RefusedFile(item.name, error.reason, str(error), before)
            message = str(error.named(item.name) if isinstance(item.image, bytes) else error)
            return Refused(item.name, error.reason, message)
        pixels = encoder_pixels(picture, self._encoder.image_size, self._encoder.crop_size)
        if before is None:
            return Decoded(pixels, {})
        found = (
            hash_as_seen(item.image, before)
            if isinstance(item.image, Path)
            else hashlib.sha256(item.data()).hexdigest()
        )
        return Decoded(pixels, {"seen": before, "sha256": found})

    def _state_of(self, item: ImageInput) -> list[int] | None:
        """Size and time of an image's file in a folder, as far as it has been read: a download that
        is complete by the time of the refusal is another state, and is tried again.
        """
        if self._job.kind != "folder":
            return None
        state = seen(os.path.join(self._job.source, item.name))
        if state and isinstance(item.image, bytes) and len(item.image) != state[0]:
            return [len(item.image), 0]
        return state


def refusal_line(job: Job, refused: Refused) -> Record:
    """The line of a refusal. For a folder it records the file's state, which may change."""
    line: Record = {
        "file_name": refused.name,
        "status": refused.reason,
        "message": refused.message,
    }
    if isinstance(refused, _RefusedFile):
        line["seen"] = refused.seen
    elif job.kind == "folder" and is_failure(refused.reason):
        line["seen"] = seen(os.path.join(job.source, refused.name))
    return line
