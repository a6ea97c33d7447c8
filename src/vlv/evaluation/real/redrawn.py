"""Pictures of a set drawn again by a model, from their caption embeddings, once.

Beside the pictures is a file that names them and a sidecar that says which model drew them and how.
A run that is killed draws only what is missing.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from vlv.checkpoints.hub import snapshot_commit
from vlv.data.lenient import Unusable
from vlv.evaluation.real.caption_run import check_sidecar, set_items
from vlv.evaluation.real.captions_file import AppendedLines, appended_lines
from vlv.evaluation.real.pairs import Watch
from vlv.evaluation.results import model_hash
from vlv.files import atomic_file
from vlv.inference.reconstruction import DrawSettings, reconstruct_images
from vlv.inference.records import ImageInput, Refused
from vlv.models.vlv import VLVModel

_BATCH = 8


@dataclass(frozen=True)
class Redrawn:
    """Pictures by one model. hashes: image of the set -> SHA-256 of its picture. refused: images
    that do not decode, with the reason.
    """

    name: str
    folder: Path
    about: dict[str, Any]
    hashes: Mapping[str, str]
    refused: dict[str, str] = field(default_factory=dict)

    @cached_property
    def size(self) -> int:
        """Pixels of a side, by the first picture, so that no model is loaded; 0 without one."""
        first = next(iter(self.hashes), None)
        return 0 if first is None else self.picture(first).width

    def picture(self, image: str) -> Image.Image:
        """The picture of an image of the set."""
        with Image.open(self.folder / _file(image)) as opened:
            return opened.convert("RGB")


def redraw(
    model: VLVModel,
    name: str,
    source: Path,
    folder: Path,
    settings: DrawSettings,
    *,
    model_name: str,
    limit: int | None,
    watch: Watch,
) -> Redrawn:
    """Draw the first `limit` images that the folder lacks. name: by which tables call the model.

    Raises:
        ConfigError: the folder holds pictures of another model, or drawn otherwise.
        DatasetError: the set cannot be read.
        CheckpointError: the model cannot draw.
    """
    assert model.folder is not None  # it was opened from one
    about = {
        "captioner": model_name,
        "revision": snapshot_commit(model.folder),
        "sha256": model_hash(model.folder) if model.folder.is_dir() else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        **asdict(settings),
    }
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    refused: dict[str, str] = {}
    with appended_lines(folder / "pictures.jsonl") as file:
        check_sidecar(file.path, about, source)
        images = _missing(source, limit, file, names, refused)
        shown = watch(images, total=limit, unit="image", description=f"drawing by {name}")
        for batch in iter(partial(_some, shown), []):
            for result in reconstruct_images(model, batch, settings, batch_size=_BATCH):
                if isinstance(result, Refused):
                    named = result.name in result.message
                    why = result.message if named else f"{result.name}: {result.message}"
                    refused[result.name] = why
                else:
                    file.add([_keep(folder, result.name, result.picture)])
        hashes = {one: file.records[one]["sha256"] for one in names if one in file.records}
    return Redrawn(name, folder, about, hashes, refused)


def _missing(
    source: Path,
    limit: int | None,
    file: AppendedLines,
    names: list[str],
    refused: dict[str, str],
) -> Iterator[ImageInput]:
    for name, sample in set_items(source, limit):
        if isinstance(sample, Unusable):
            refused[name] = sample.message
            continue
        names.append(name)
        if name not in file.records:
            yield ImageInput(name, sample.image)


def _some(images: Iterator[ImageInput]) -> list[ImageInput]:
    return list(islice(images, _BATCH))


def _keep(folder: Path, name: str, picture: Image.Image) -> dict[str, str]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with atomic_file(folder / _file(name)) as unfinished:
        unfinished.write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return {"file_name": name, "picture": _file(name), "sha256": digest}


def _file(name: str) -> str:
    """Of the picture of an image: names of images may hold any sign."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24] + ".png"
