"""The layout of COCO: a folder of images, and JSON files that name them.

`captions_val2014.json` names the images of `val2014` and has their captions;
`instances_val2014.json` names them alone. The files lie beside the images, beside their folder, or
in `annotations`. Decodes nothing.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vlv.data.image_sets import ImageSet
from vlv.data.images import image_bytes
from vlv.data.samples import Sample
from vlv.data.set_index import set_hash
from vlv.errors import DatasetError, ImageError
from vlv.text import printable, read_start

_ANNOTATIONS = "annotations"
_KINDS = ("captions", "instances")
_FILE = re.compile(r"(captions|instances)_(?P<split>\w+)\.json")
_BEGINNING = re.compile(rb'^\s*\{\s*"(?:info|licenses|images|annotations)"\s*:\s*[\[{]')
# `instances_train2014.json` has 450 MB.
_MAX_BYTES = 1_000_000_000


def coco_file(path: Path) -> Path | None:
    """The file of captions, or else of instances, that is at `path` or describes the images in it;
    None for other sets.
    """
    if path.is_file():
        return path if path.suffix.lower() == ".json" and _looks_so(path) else None
    if not path.is_dir():
        return None
    for kind in _KINDS:
        for file in _candidates(path, kind):
            if file.is_file() and _looks_so(file):
                return file
    return None


def _looks_so(file: Path) -> bool:
    """Whether the beginning is one of COCO's; other JSON of captions may be called alike."""
    return _BEGINNING.search(read_start(file, 4096, printable(file), DatasetError)) is not None


def _candidates(folder: Path, kind: str) -> Iterator[Path]:
    for place in (folder, folder / _ANNOTATIONS):
        yield from sorted(place.glob(f"{kind}_*.json"))
    # What lies beside a folder is about it only where the names say so.
    whole = folder.resolve()
    for place in (whole.parent, whole.parent / _ANNOTATIONS):
        yield place / f"{kind}_{whole.name}.json"


class CocoImages(ImageSet):
    """The images that a file of COCO names, in its order, with all captions of each.

    A name is that of the file without its folder, as a captions file of the folder has it.
    """

    def __init__(self, file: Path) -> None:
        where = printable(file)
        data = _parsed(file)
        try:
            self._names = [str(one["file_name"]) for one in data["images"]]
            of_id = {one["id"]: str(one["file_name"]) for one in data["images"]}
            texts: dict[str, list[str]] = {}
            for one in data.get("annotations", ()):
                text = one.get("caption")
                if isinstance(text, str) and text.strip() and one["image_id"] in of_id:
                    texts.setdefault(of_id[one["image_id"]], []).append(" ".join(text.split()))
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{where} has not the form of COCO, images with id and file_name, and annotations "
                f"with image_id and caption ({error!r})"
            ) from error
        if not self._names:
            raise DatasetError(f"{where} names no image")
        for name in self._names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise DatasetError(
                    f"{where} names {printable(name)}, which leads out of its folder"
                )
        self._texts = texts
        self._folder = _images_of(file, self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        path = Path(name)
        texts = self._texts.get(name, [])
        try:
            image = image_bytes(self._folder / name)
        except ImageError as error:
            raise DatasetError(str(error)) from error
        return Sample(
            key=name.removesuffix(path.suffix),
            image=image,
            extension=path.suffix,
            caption=texts[0] if texts else None,
            meta={"texts": texts} if len(texts) > 1 else {},
        )

    @property
    def fingerprint(self) -> str:
        """A hash of names and captions."""
        return set_hash("\0".join([name, *self._texts.get(name, [])]) for name in self._names)


def _images_of(file: Path, names: Sequence[str]) -> Path:
    """The folder of the images, by the first one that is there: some may be left out."""
    found = _FILE.fullmatch(file.name)
    split = found["split"] if found else ""
    above = file.resolve().parent
    places = [above, above / split, above.parent / split]
    for name in names:
        for place in places:
            if (place / name).is_file():
                return place
    tried = ", ".join(str(place) for place in dict.fromkeys(places))
    raise DatasetError(
        f"{printable(file)} names {printable(names[0])} and more, of which none is in "
        f"{printable(tried)}; put the images into the folder {split or 'of the file'}"
    )


def _parsed(file: Path) -> dict[str, Any]:
    # Files of COCO are larger than other JSON is allowed to be.
    where = printable(file)
    try:
        value = json.loads(read_start(file, _MAX_BYTES, where, DatasetError))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{where} is not a JSON object")
    return value
