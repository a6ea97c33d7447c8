"""A look at a model folder of unknown origin, before any library opens a file of it.

Every file is a regular one inside the folder and no code; every JSON is read by one careful reader;
no config names code, or sizes beyond those of `bounds`; the headers of weight files are sound.
Knows files and plain values; builds nothing.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from vlv.checkpoints.bounds import code_in, fault_of
from vlv.checkpoints.headers import check_header
from vlv.checkpoints.network_bounds import network_fault
from vlv.checkpoints.parts import (
    MANIFEST_FILE,
    PARTS,
    PIPELINE_FILE,
    TEXT_ENCODERS,
    BaseModelName,
)
from vlv.errors import CheckpointError
from vlv.models.config import FORMER_NAMES, Component
from vlv.text import parse_json, printable

# What a folder may hold, and how deep.
_MOST_FILES, _MOST_LEVELS = 10_000, 4
_CODE_FILES = frozenset({".py", ".pyc", ".pyd", ".so"})
# Bytes of a config; of an index of shards, or a record of training; of a vocabulary.
_CONFIG_BYTES, _RECORD_BYTES, _VOCABULARY_BYTES = 1_000_000, 16_000_000, 40_000_000
# Lists and objects, and values in all, of any JSON: what they take in memory is a hundred times
# what they take on disk.
_MOST_CONTAINERS, _MOST_VALUES = 1_000_000, 3_000_000
# transformers writes 10^30 for "no limit".
_DIGITS = 40
# The largest number that a tokenizer's settings may hold beside `model_max_length`.
_LARGEST_ID = 10_000_000
_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json"})
_INDEX = ".index.json"

# The networks of a model folder, and of published models: folder -> what its config is of.
_NETWORKS = {part.folder: name for name, part in PARTS.items() if part.published} | {
    "scheduler": "scheduler"
}
_COMPONENTS = tuple(get_args(Component)) + tuple(FORMER_NAMES)
_PUBLISHED: dict[BaseModelName, dict[str, str]] = {
    "encoder": {".": "encoder"},
    "language_model": {".": "language_model"},
    "decoder": {
        part.published[1]: name
        for name, part in PARTS.items()
        if part.published is not None and part.published[0] == "decoder"
    }
    | {name.replace("text_encoder", "tokenizer"): "tokenizer" for name in TEXT_ENCODERS}
    | {"scheduler": "scheduler"},
}
# Files that training leaves beside a model, which nothing here opens.
_LEFT_BY_TRAINERS = re.compile(r"trainer_state\.json|modules\.json|(\w+_)?results\.json")
_CONFIG_NAMES = {"scheduler": "scheduler_config.json"}
_PIPELINE_LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)


def inspect_model(folder: Path) -> None:
    """Raise CheckpointError, one sentence, for a model folder that is not safe to open."""
    inspector = _Inspector(folder)
    inspector.look_at_files(folder, into=False)
    inspector.read(folder / MANIFEST_FILE, _RECORD_BYTES)
    for path in sorted(folder.glob("*.json")):
        if path.name != MANIFEST_FILE and not _LEFT_BY_TRAINERS.fullmatch(path.name):
            inspector.look_for_code(path)
    for name in _COMPONENTS:
        if os.path.lexists(folder / name):
            inspector.look_at_files(folder / name)
            inspector.read_all(folder / name)
    inspector.check_networks(_NETWORKS)


def inspect_adapter(folder: Path) -> None:
    """`inspect_model` of the folder of a fine-tune, whose base is inspected by itself."""
    inspector = _Inspector(folder, adapter=True)
    inspector.look_at_files(folder, into=False)
    inspector.read_all(folder, 0)
    if os.path.lexists(folder / "caption_decoder"):
        inspector.look_at_files(folder / "caption_decoder")
        inspector.read_all(folder / "caption_decoder")
    inspector.check_networks({PARTS["language_model"].folder: "language_model"})


def inspect_processing(folder: Path) -> None:
    """`inspect_model` of a folder that holds what comes before and after a model, and no model."""
    inspector = _Inspector(folder)
    inspector.look_at_files(folder)
    inspector.read_all(folder)


def inspect_base_model(name: BaseModelName, folder: Path) -> None:
    """`inspect_model` of a published model, as `name` of a VLV."""
    inspector = _Inspector(folder)
    inspector.look_at_files(folder, into=False)
    for part in _PUBLISHED[name]:
        if part != "." and os.path.lexists(folder / part):
            inspector.look_at_files(folder / part)
        if (folder / part).is_dir():
            inspector.read_all(folder / part, 0)
    pipeline = folder / PIPELINE_FILE
    if os.path.lexists(pipeline):
        _check_pipeline(inspector.read(pipeline, _CONFIG_BYTES), pipeline)
    inspector.check_networks(_PUBLISHED[name])


class _Inspector:
    """The files of one folder; each JSON is read once."""

    def __init__(self, folder: Path, *, adapter: bool = False) -> None:
        self._folder = folder
        self._adapter = adapter
        inside = Path(os.path.realpath(folder))
        self._homes = [inside]
        # The Hub's cache: files of a snapshot are links into the repository's blobs.
        self._homes += [
            above.parent / "blobs" for above in inside.parents if above.name == "snapshots"
        ]
        self._read: dict[Path, dict[str, Any]] = {}

    def look_at_files(self, folder: Path, *, into: bool = True) -> None:
        """Check the kind of every file of a folder, and `into` its folders."""
        if not folder.is_dir():
            raise CheckpointError(f"{_name(folder)} is not a folder.")
        self._check_place(folder)
        for count, path in enumerate(_entries(folder, _MOST_LEVELS if into else 0)):
            if count > _MOST_FILES:
                raise CheckpointError(f"{_name(folder)} holds more than {_MOST_FILES} files.")
            self._check_file(path)

    def _check_file(self, path: Path) -> None:
        self._check_place(path)
        try:
            kind = os.stat(path).st_mode
        except OSError as error:
            raise CheckpointError(f"{_name(path)} cannot be read ({error.strerror}).") from error
        if stat.S_ISDIR(kind):
            return
        if not stat.S_ISREG(kind):
            raise CheckpointError(
                f"{_name(path)} is neither a file nor a folder but a pipe, a device or a socket; "
                "remove it from the model folder."
            )
        if path.suffix.lower() in _CODE_FILES:
            raise CheckpointError(
                f"{_name(path)} is code, which no model folder needs and which is never run; "
                "remove it, or name a model without it."
            )
        if path.name == "adapter_config.json" and not self._adapter:
            raise CheckpointError(
                f"{_name(path)} belongs to an adapter of another model; merge it into that model "
                "and name the result."
            )
        if path.suffix in (".txt", ".jinja", ".model") and path.stat().st_size > _VOCABULARY_BYTES:
            raise CheckpointError(
                f"{_name(path)} has more than {_VOCABULARY_BYTES // 10**6} MB of text."
            )

    def _check_place(self, path: Path) -> None:
        real = Path(os.path.realpath(path))
        if not any(real == home or home in real.parents for home in self._homes):
            raise CheckpointError(
                f"{_name(path)} is a link to a place outside the model folder; put the file itself "
                "there."
            )

    def read_all(self, folder: Path, levels: int = _MOST_LEVELS) -> None:
        """Read every JSON of a folder and the header of every weights file."""
        for path in _entries(folder, levels):
            if path.suffix == ".json" and not _LEFT_BY_TRAINERS.fullmatch(path.name):
                self.look_for_code(path)
                self._check_content(path)
            elif path.suffix == ".safetensors":
                check_header(path)

    def look_for_code(self, path: Path) -> None:
        """Refuse a JSON that names code."""
        content = self.read(path, _limit(path))
        found = code_in({"vocab": content} if path.name == "vocab.json" else content)
        if found is not None:
            raise CheckpointError(
                f"{_name(path)} names code of its own ({found}), which is never run; use a model "
                "for the libraries' own classes."
            )

    def _check_content(self, path: Path) -> None:
        content = self.read(path, _limit(path))
        fault = None
        if path.name.endswith(_INDEX):
            fault = _index_fault(content)
        elif path.name in _VOCABULARIES or "token" in path.name:
            fault = _tokenizer_fault(content)
        if fault:
            raise CheckpointError(f"{_name(path)} cannot be used: {fault}.")

    def read(self, path: Path, limit: int) -> dict[str, Any]:
        """A JSON object of at most `limit` bytes."""
        if path not in self._read:
            self._read[path] = _read_object(path, limit)
        return self._read[path]

    def check_networks(self, kinds: dict[str, str]) -> None:
        """Check the configs of networks against the bounds."""
        for name, kind in kinds.items():
            path = self._folder / name / _CONFIG_NAMES.get(kind, "config.json")
            if kind == "tokenizer" or not path.is_file():
                continue
            fault = network_fault(self.read(path, _CONFIG_BYTES), kind)
            if fault:
                raise CheckpointError(f"{_name(path)} cannot be used: {fault}.")


def read_config(path: Path) -> dict[str, Any]:
    """One JSON object of a model folder, as carefully."""
    return _read_object(path, _RECORD_BYTES)


def _read_object(path: Path, limit: int) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{_name(path)} is not a file.")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise CheckpointError(f"The file {_name(path)} is missing.") from error
    except OSError as error:
        raise CheckpointError(
            f"The file {_name(path)} cannot be read ({error.strerror})."
        ) from error
    if len(data) > limit:
        raise CheckpointError(f"The file {_name(path)} has more than {limit // 10**6} MB of JSON.")
    containers = data.count(b"[") + data.count(b"{")
    if containers > _MOST_CONTAINERS or containers + data.count(b",") > _MOST_VALUES:
        raise CheckpointError(f"The file {_name(path)} has more than {_MOST_VALUES:,} values.")
    value = parse_json(data, f"The file {_name(path)}", CheckpointError, _DIGITS)
    if not isinstance(value, dict):
        raise CheckpointError(f"The file {_name(path)} is not a JSON object.")
    return value


def _limit(path: Path) -> int:
    if path.name in _VOCABULARIES or "token" in path.name:
        return _VOCABULARY_BYTES
    return _RECORD_BYTES if path.name.endswith(_INDEX) else _CONFIG_BYTES


def _entries(folder: Path, levels: int) -> Iterator[Path]:
    """What a folder and its folders hold, but for what is hidden; links to folders are listed and
    not followed.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        yield Path(entry.path)
        if levels and entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path), levels - 1)


def _index_fault(index: dict[str, Any]) -> str | None:
    files = index.get("weight_map")
    if not isinstance(files, dict):
        return "it has no weight_map"
    for file in files.values():
        if not isinstance(file, str) or Path(file).name != file or "\\" in file:
            return f"it names the file {str(file)[:80]!r}, which is not beside it"
    return None


def _tokenizer_fault(content: dict[str, Any]) -> str | None:
    settings = {key: value for key, value in content.items() if key != "model_max_length"}
    fault = _number_beyond(settings, _LARGEST_ID)
    return f"it holds the number {fault}" if fault is not None else None


def _number_beyond(value: Any, most: int) -> float | None:
    """The first number of a JSON value that is beyond what a tokenizer counts."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, int | float) and not -most <= one <= most:
            return one
    return None


def _check_pipeline(index: dict[str, Any], path: Path) -> None:
    name = index.get("_class_name", "StableDiffusionPipeline")
    found = code_in(index) or fault_of(index)
    if not isinstance(name, str) or not name.endswith("Pipeline"):
        found = "_class_name"
    for key, value in index.items():
        if isinstance(value, list) and value and value[0] not in _PIPELINE_LIBRARIES:
            found = key
    if found:
        raise CheckpointError(
            f"{_name(path)} names code that is no part of diffusers or transformers ({found}), "
            "which is never run; use a pipeline of their own classes."
        )


def _name(path: Path) -> str:
    return printable(path)
