"""Images to pictures in one call, as `vlv reconstruct` does it in two."""

from collections.abc import Iterable, Iterator

from vlv.inference.batching import BatchSize
from vlv.inference.captioning import CaptionSettings
from vlv.inference.encoding import encode_images
from vlv.inference.reconstruction import DrawSettings, Reconstructed, Via, reconstruct_encoded
from vlv.inference.records import ImageInput, Refused
from vlv.pipeline import VLV


def reconstruct_images(
    model: VLV,
    images: Iterable[ImageInput],
    settings: DrawSettings,
    *,
    via: Via = "embeddings",
    captions: CaptionSettings | None = None,
    batch_size: BatchSize = 8,
) -> Iterator[Reconstructed | Refused]:
    encoded = encode_images(model, images, batch_size=batch_size)
    return reconstruct_encoded(
        model, encoded, settings, via=via, captions=captions, batch_size=batch_size
    )
