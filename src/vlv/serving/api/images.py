"""Pictures in and out of requests: data URLs, and URLs of hosts that are allowed.

Decoding happens in child processes; what comes out of here has the encoder's size.
"""

import asyncio
import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image

from vlv.data.fetching import Fetcher
from vlv.data.isolated import DecodingPool
from vlv.errors import ImageError
from vlv.models.preprocessing import decoder_pixels, encoder_pixels
from vlv.serving.data_urls import DataURL, data_url
from vlv.serving.errors import ApiError
from vlv.serving.settings import ImageHosts
from vlv.serving.worker.jobs import Info, Pixels

_WORKERS = 2
View = Callable[[Image.Image], Pixels]
# It is the request that is wrong, and not the image.
_WRONG_URL = ("bad-url", "refused-address")


class Images:
    """Turns what a request says of an image into the encoder's pixels."""

    def __init__(self, hosts: ImageHosts) -> None:
        self._pool = DecodingPool(workers=_WORKERS)
        # A picture at full size exists only within these threads, so that few do at once.
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="pictures")
        self._fetcher = None
        if hosts.names:
            self._fetcher = Fetcher(
                hosts.names, ports=hosts.ports, allowed_addresses=hosts.networks
            )

    async def pixels(self, url: str, info: Info, param: str) -> Pixels:
        """Pixels (S,S,3) of an image given as a URL.

        Raises:
            ApiError: 422 with the reason of the refusal, or 400 if the URL is of no known kind or
                may not be asked.
        """
        (seen,) = await self._views(url, param, _for_encoder(info))
        return seen

    async def both(self, url: str, info: Info, param: str) -> tuple[Pixels, Pixels]:
        """Pixels (S,S,3) for the encoder and (D,D,3) for the diffusion decoder, as of `pixels`."""
        for_decoder = partial(decoder_pixels, size=info.decoder_size)
        seen, drawn = await self._views(url, param, _for_encoder(info), for_decoder)
        return seen, drawn

    async def _views(self, url: str, param: str, *views: View) -> list[Pixels]:
        image = data_url(url) or await self._fetched(url, param)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._shrunk, image, param, views)
        except ImageError as error:
            raise ApiError(422, error.reason, f"{error}.", param) from error

    def close(self) -> None:
        """End the child processes."""
        self._pool.close()
        self._threads.shutdown(cancel_futures=True)

    def _shrunk(self, image: DataURL | bytes, param: str, views: Sequence[View]) -> list[Pixels]:
        try:
            data = image if isinstance(image, bytes) else image.data()
        except ValueError as error:
            raise ApiError(400, "invalid_image_url", f"{error}.", param) from error
        picture = self._pool.decode(data)
        return [view(picture) for view in views]

    async def _fetched(self, url: str, param: str) -> bytes:
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
        try:
            return await asyncio.to_thread(self._fetcher.fetch, url.strip())
        except ImageError as error:
            status = 400 if error.reason in _WRONG_URL else 422
            raise ApiError(status, error.reason, f"{error}.", param) from error


def _for_encoder(info: Info) -> View:
    return partial(encoder_pixels, image_size=info.image_size, crop_size=info.crop_size)


def png_url(pixels: Pixels) -> str:
    """A picture as the data URL of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
