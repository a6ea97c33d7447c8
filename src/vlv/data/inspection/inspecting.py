"""What a dataset holds: counts of everything that can be seen without a model.

Images are decoded by several processes, each within limits of time and memory. In memory are the
images at work, counts by value, a few samples, and 16 bytes for each image.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from vlv.data.engines import Workers, stream
from vlv.data.formats import format_of
from vlv.data.images import MAX_OWN_PIXELS, image_header
from vlv.data.inspection.samples import Duplicates, FrequentTexts, KeptSamples, hash_of
from vlv.data.isolated import DecodingPool
from vlv.data.items import Item
from vlv.data.lenient import Unusable
from vlv.errors import ImageError
from vlv.text import printable

# Pictures of the contact sheet, and their longer side in pixels.
_PICTURES, _SIDE = 48, 180
# Captions whose language is detected.
LANGUAGE_SAMPLES = 20_000
# Captions that are looked for among the most frequent ones.
_FREQUENT = 10_000
# Of these, those that a page and a program are shown.
_REPEATED = 10
# Refused images that are named.
_NAMED = 1000


@dataclass(frozen=True)
class Picture:
    """A small JPEG of an image and what there is to say of it."""

    jpeg: bytes
    width: int
    height: int
    caption: str | None


@dataclass
class Inspection:
    """Counts of a dataset. Sizes are in pixels, of images as they are shown where those are
    decoded; lengths of captions are in words.
    """

    images: int = 0
    bytes: int = 0
    decoded: bool = True
    formats: Counter[str] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    ratios: Counter[float] = field(default_factory=Counter)
    """Width by height, to two decimals."""
    refused: Counter[str] = field(default_factory=Counter)
    refused_first: list[Unusable] = field(default_factory=list)
    captioned: int = 0
    several_captions: int = 0
    words: Counter[int] = field(default_factory=Counter)
    files: Duplicates = field(default_factory=Duplicates)
    captions: Duplicates = field(default_factory=Duplicates)
    frequent: FrequentTexts = field(default_factory=lambda: FrequentTexts(_FREQUENT))
    to_tell: KeptSamples[str] = field(default_factory=lambda: KeptSamples(LANGUAGE_SAMPLES))
    pictures: KeptSamples[Picture] = field(default_factory=lambda: KeptSamples(_PICTURES))

    def repeated_captions(self) -> tuple[int, list[tuple[str, int]]]:
        """How many captions repeat an earlier one, and the most frequent ten with counts."""
        again, counts = self.captions.counts()
        found = [(text, counts.get(hash_of(text.encode()), 1)) for text in self.frequent.texts()]
        found = [one for one in found if one[1] > 1]
        return again, sorted(found, key=lambda one: (-one[1], one[0]))[:_REPEATED]

    @property
    def total(self) -> int:
        """Images, those that are refused among them."""
        return self.images + sum(self.refused.values())


@dataclass(frozen=True)
class _Seen:
    """One image: (width, height), or the refusal; a small JPEG where it may be kept."""

    item: Item
    size: tuple[int, int] | None = None
    refused: Unusable | None = None
    jpeg: bytes | None = None


def inspected(items: Iterable[Item], workers: Workers, *, decode: bool) -> Iterator[Inspection]:
    """The inspection after each item; the same object each time.

    decode: whether images are decoded; without, only damage that headers show is found, and there
        are no pictures.
    """
    found = Inspection(decoded=decode)
    wanted = ((item, found.pictures.wants(item.name)) for item in items)
    results = stream(partial(_seen, decode), wanted, workers, max_pixels=MAX_OWN_PIXELS)
    with closing(results):
        for seen in results:
            _count(found, seen)
            yield found


def _seen(decode: bool, pool: DecodingPool, wanted: tuple[Item, bool]) -> _Seen:
    item, is_shown = wanted
    sample = item.sample
    if isinstance(sample, Unusable):
        return _Seen(item, refused=sample)
    try:
        if not decode:
            _, width, height = image_header(sample.image, item.name)
            return _Seen(item, (width, height))
        picture = pool.decode(sample.image)
    except ImageError as error:
        refused = Unusable(item.name, str(error.named(item.name)), error.reason)
        return _Seen(item, refused=refused)
    jpeg = _small(picture) if is_shown else None
    return _Seen(item, picture.size, jpeg=jpeg)


def _small(picture: Image.Image) -> bytes:
    copy = picture.copy()
    copy.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    copy.save(file, "JPEG", quality=80)
    return file.getvalue()


def _count(found: Inspection, seen: _Seen) -> None:
    sample = seen.item.sample
    if seen.refused is not None or isinstance(sample, Unusable) or seen.size is None:
        assert seen.refused is not None
        found.refused[seen.refused.reason] += 1
        if len(found.refused_first) < _NAMED:
            name, message = printable(seen.item.name), printable(seen.refused.message)
            found.refused_first.append(Unusable(name, message, seen.refused.reason))
        return
    width, height = seen.size
    found.images += 1
    found.bytes += len(sample.image)
    found.formats[format_of(sample.image) or "unknown"] += 1
    found.widths[width] += 1
    found.heights[height] += 1
    found.shorter_sides[min(width, height)] += 1
    found.ratios[round(width / height, 2)] += 1
    found.files.add(sample.image)
    if seen.jpeg is not None:
        caption = sample.texts[0] if sample.texts else None
        found.pictures.add(seen.item.name, Picture(seen.jpeg, width, height, caption))
    _count_captions(found, seen.item.name, sample.texts)


def _count_captions(found: Inspection, name: str, texts: list[str]) -> None:
    """Of several captions, the first one counts: others are often translations or variants."""
    if not texts:
        return
    found.captioned += 1
    found.several_captions += len(texts) > 1
    found.words[len(texts[0].split())] += 1
    found.captions.add(texts[0].encode())
    found.frequent.add(texts[0])
    found.to_tell.add(name, texts[0])
