"""Pictures with captions that somebody made, in every layout that captions come in.

Beside the sets of `vlv.data.image_sets` these are COCO (`vlv.data.coco`) and the JSON files of
kohya's scripts (`{"path": {"caption": ...}}`) and of the paper's authors (`{"name.jpg": "..."}`).
Decodes nothing.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlv.data.coco import CocoImages, coco_file
from vlv.data.image_sets import FolderImages, ImageSet, open_image_set
from vlv.data.images import EXTENSIONS, image_bytes
from vlv.data.remote.locations import is_pattern, local_path, url_of
from vlv.data.samples import Sample, lines_with_text, parse_caption
from vlv.data.set_index import set_hash
from vlv.errors import DatasetError, ImageError
from vlv.text import MAX_OWN_JSON_BYTES, printable, read_json, read_object

# Where kohya's scripts keep captions and tags of a picture.
_FIELDS = ("caption", "tags")


def open_captioned(path: Path, *, index_folder: Path) -> ImageSet:
    """The pictures at `path`: COCO, a folder, a shard, a table, a `metadata.jsonl` or a JSON of
    captions; also the shards and tables of a pattern or in an object store.

    Of a folder without a single caption, one JSON of captions in it is read. A JSON of something
    else, such as a `config.json`, does not count.

    Raises:
        ConfigError: what it needs is not installed.
        DatasetError: nothing readable is there, it is damaged, or it holds no image.
    """
    coco = coco_file(path)
    if coco is not None:
        return CocoImages(coco)
    suffix = path.suffix.lower()
    if suffix == ".json" and path.is_file():
        return JsonImages(path)
    if suffix == ".jsonl" and path.is_file():
        path = path.parent
    if url_of(path) is None and not is_pattern(path) and not local_path(path).exists():
        raise DatasetError(f"there is no file or folder {printable(path)}")
    with warnings.catch_warnings():
        # That only the first line of a caption file counts: callers get all texts and choose.
        warnings.filterwarnings("ignore", message=".*holds? several lines.*")
        images = open_image_set(path, index_folder=index_folder)
    if isinstance(images, FolderImages) and not _has_captions(images):
        found = sorted(path.glob("*.json"))
        if len(found) == 1:
            return _listed_in(found[0]) or images
    return images


def image_of_key(folder: Path, key: str) -> Path | None:
    """The image that a key of a JSON in `folder` stands for: the file of this name, or the first
    with an extension of images after it; None where there is none.
    """
    place = folder / key
    endings = (*EXTENSIONS, *map(str.upper, EXTENSIONS))
    files = (place, *(Path(f"{place}{extension}") for extension in endings))
    # With an extension a name may be too long for a file: then it is none.
    return next((file for file in files if os.path.isfile(file)), None)


def distinct_samples(
    images: ImageSet, numbers: Iterable[int], refused: dict[str, str]
) -> Iterator[tuple[int, Sample]]:
    """Images of a set by their numbers. Those that cannot be read, or have the name of an earlier
    one, are added to `refused` with the reason.
    """
    seen: set[str] = set()
    for number in numbers:
        try:
            sample = images[number]
        except DatasetError as error:
            refused[f"image {number + 1}"] = str(error)
            continue
        if sample.file_name in seen:
            refused[sample.file_name] = "two images of the set have this name"
            continue
        seen.add(sample.file_name)
        yield number, sample


def _has_captions(images: ImageSet) -> bool:
    for index in range(len(images)):
        try:
            if images[index].caption:
                return True
        except DatasetError:
            return True  # a caption that cannot be read is reported with its picture
    return False


def _listed_in(path: Path) -> "JsonImages | None":
    """The pictures that a JSON gives captions; None where it is of something else."""
    entries = read_json(path, DatasetError, MAX_OWN_JSON_BYTES)
    if not isinstance(entries, dict):
        return None
    is_kohyas = any(one.keys() & set(_FIELDS) for one in entries.values() if isinstance(one, dict))
    # Settings are texts by names too: those of captions are names of pictures.
    is_meant = is_kohyas or any(
        name.lower().endswith(EXTENSIONS) or _is_picture(image_of_key(path.parent, name))
        for name in entries
    )
    return JsonImages(path, entries) if is_meant else None


def _is_picture(file: Path | None) -> bool:
    return file is not None and file.name.lower().endswith(EXTENSIONS)


class JsonImages(ImageSet):
    """The pictures that a JSON of captions names, with or without their extensions, relative to it.
    Lines of a caption are captions, and so are texts in a list.
    """

    def __init__(self, path: Path, entries: dict[str, Any] | None = None) -> None:
        """entries: what the JSON holds, where it has been read.

        Raises:
            DatasetError: it cannot be read, or no entry is a caption. An entry that is none is an
                error of its picture.
        """
        self._path = path
        if entries is None:
            entries = read_object(path, DatasetError, MAX_OWN_JSON_BYTES)
        captions = {name: _caption_of(entry) for name, entry in entries.items()}
        if not any(map(_are_texts, captions.values())):
            raise DatasetError(
                f"{printable(path)} is no JSON of captions; write "
                '{"picture.jpg": {"caption": "..."}} or {"picture.jpg": "..."}'
            )
        self._entries = sorted(captions.items(), key=lambda item: item[0])

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        name, caption = self._entries[index]
        file = image_of_key(self._path.parent, name)
        if file is None:
            where = printable(self._path)
            raise DatasetError(f"{where} names {printable(name)}, which is not there")
        try:
            image = image_bytes(file)
        except ImageError as error:
            raise DatasetError(str(error)) from error
        texts = caption if isinstance(caption, list) and _are_texts(caption) else [caption]
        where = f"{printable(name)} in {printable(self._path)}"
        lines = [line for one in texts for line in lines_with_text(parse_caption(one, where) or "")]
        return Sample(
            key=name.removesuffix(file.suffix),
            image=image,
            extension=file.suffix,
            caption=lines[0] if lines else None,
            meta={"texts": lines} if len(lines) > 1 else {},
        )

    @property
    def fingerprint(self) -> str:
        """A hash of names and captions."""
        return set_hash(f"{name}\0{text}" for name, text in self._entries)


def _caption_of(entry: object) -> object:
    """What an entry has as its caption, whatever that is."""
    if isinstance(entry, dict):
        field = next((field for field in _FIELDS if entry.get(field)), None)
        found = entry[field] if field else ""
        are_tags = field == "tags" and isinstance(found, list) and _are_texts(found)
        return ", ".join(found) if are_tags else found  # tags are one caption together
    return entry


def _are_texts(caption: object) -> bool:
    return isinstance(caption, str) or (
        isinstance(caption, list) and all(isinstance(one, str) for one in caption)
    )
