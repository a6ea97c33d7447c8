"""Images in requests and responses: data URLs (RFC 2397), and URLs of hosts that are allowed.

Images are decoded in child processes; this module returns them at the model's sizes.
"""

import asyncio
import base64
import binascii
import io
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from vlv.data.fetching import Fetcher
from vlv.data.isolated import DecodingPool
from vlv.errors import ImageError
from vlv.models.preprocessing import decoder_pixels, encoder_pixels
from vlv.serving.errors import ApiError
from vlv.serving.settings import ImageHosts
from vlv.serving.worker.jobs import ModelInfo, Pixels

_WORKERS = 2
# Files that are fetched, or were and wait to be decoded: no request's body has room for them.
_FETCHES = 8
# With these reasons the request is wrong, not the image.
_WRONG_URL = ("bad-url", "refused-address")
_DATA_URL = re.compile(r"\s*data:([^,]{0,500}),", re.IGNORECASE)
_WHITESPACE = b" \t\r\n\f\v"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")

Preprocess = Callable[[Image.Image], Pixels]


class ImageReader:
    """Turns the image URLs of requests into the model's pixels."""

    def __init__(self, hosts: ImageHosts) -> None:
        self._pool = DecodingPool(workers=_WORKERS)
        # An image at full size exists only within these threads, so only few exist at once.
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="images")
        # Of their own: what else runs in threads must not wait for slow hosts.
        self._fetching = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetches")
        self._files = asyncio.Semaphore(_FETCHES)
        self._fetcher = None
        if hosts.names:
            self._fetcher = Fetcher(
                hosts.names, ports=hosts.ports, allowed_addresses=hosts.networks
            )

    async def for_encoder(self, url: str, info: ModelInfo, param: str) -> Pixels:
        """Pixels (S,S,3) for the encoder of an image given as a URL.

        Raises:
            ApiError: 422 with the reason why the image is refused, or 400 if the URL has an
                unsupported form or is not allowed.
        """
        (pixels,) = await self._read(url, param, _encoder_preprocess(info))
        return pixels

    async def for_verification(self, url: str, info: ModelInfo) -> tuple[Pixels, Pixels]:
        """Pixels (S,S,3) for the encoder and (D,D,3) for the diffusion decoder.

        Raises:
            ApiError: as `for_encoder`.
        """
        decoder_preprocess = partial(decoder_pixels, size=info.decoder_size)
        for_encoder, for_decoder = await self._read(
            url, "image", _encoder_preprocess(info), decoder_preprocess
        )
        return for_encoder, for_decoder

    def close(self) -> None:
        """End the child processes."""
        self._pool.close()
        self._threads.shutdown(cancel_futures=True)
        self._fetching.shutdown(wait=False, cancel_futures=True)

    async def _read(self, url: str, param: str, *preprocess: Preprocess) -> list[Pixels]:
        image = parse_data_url(url)
        if image is not None:
            return await self._decoded(image, param, preprocess)
        self._check_fetched(url, param)
        async with self._files:
            return await self._decoded(await self._fetch(url, param), param, preprocess)

    async def _decoded(
        self, image: "DataURL | bytes", param: str, preprocess: Sequence[Preprocess]
    ) -> list[Pixels]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._decode, image, param, preprocess)
        except ImageError as error:
            raise ApiError(422, error.reason, f"{error}.", param) from error

    def _decode(
        self, image: "DataURL | bytes", param: str, preprocess: Sequence[Preprocess]
    ) -> list[Pixels]:
        try:
            data = image if isinstance(image, bytes) else image.decode()
        except ValueError as error:
            raise ApiError(400, "invalid_image_url", f"{error}.", param) from error
        decoded = self._pool.decode(data)
        return [one(decoded) for one in preprocess]

    def _check_fetched(self, url: str, param: str) -> None:
        if not url.strip().lower().startswith(("http://", "https://")):
            raise ApiError(
                400,
                "invalid_image_url",
                "An image must be a data URL, such as data:image/png;base64,...",
                param,
            )
        if self._fetcher is None:
            raise ApiError(
                400,
                "image_urls_disabled",
                "This server fetches no images from URLs; send the image itself as a data URL.",
                param,
            )

    async def _fetch(self, url: str, param: str) -> bytes:
        assert self._fetcher is not None  # checked before
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._fetching, self._fetcher.fetch, url.strip())
        except ImageError as error:
            status = 400 if error.reason in _WRONG_URL else 422
            raise ApiError(status, error.reason, f"{error}.", param) from error


def _encoder_preprocess(info: ModelInfo) -> Preprocess:
    return partial(encoder_pixels, image_size=info.image_size, crop_size=info.crop_size)


@dataclass(frozen=True)
class DataURL:
    """A data URL whose data start at `start` and are not decoded yet."""

    url: str
    start: int
    base64: bool

    def decode(self) -> bytes:
        """The data, as lenient as clients need.

        Some encoders break lines, omit padding, use the URL-safe alphabet, or percent-encode.

        Raises:
            ValueError: the data are damaged.
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


def parse_data_url(url: str) -> DataURL | None:
    """A parsed data URL; None if the URL is of another kind.

    Parameters and any media type before the data are accepted; the image decoder checks the data.
    """
    head = _DATA_URL.match(url)
    if head is None:
        return None
    encoding = head[1].rpartition(";")[2].strip().lower()
    return DataURL(url, head.end(), encoding == "base64")


def png_data_url(pixels: Pixels) -> str:
    """An image as the data URL of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
