"""The tensors of a checkpoint on the disk, as `torch.distributed.checkpoint` (DCP) writes and reads
them. DCP plans who writes and who reads which part; the files are safetensors.

A tensor is called `group.name`. A process writes a file for each group: `{group}.safetensors` where
it is alone, `{group}-{rank}.safetensors` otherwise. In it a tensor is called `name`. A file that
holds parts records under `offsets` where each begins.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from vlv.errors import TrainingError
from vlv.files import sha256_of, sync, usual_mode

SUFFIX = ".safetensors"
_OFFSETS = "offsets"


class SafetensorsWriter(StorageWriter):
    """Writes into `folder`; `finish_folder` gets the digests of all files when all have written."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        processes: int,
        finish_folder: Callable[[dict[str, str]], None],
    ) -> None:
        self._folder = folder
        self._suffix = f"-{rank:05d}{SUFFIX}" if processes > 1 else SUFFIX
        self._finish_folder = finish_folder

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A writer writes one folder."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """All there is to set up is the folder, below."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Nothing is known yet of what others write."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Called by one process, before any writes."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write a process's share: its parts, and some of what all have."""
        require_shared(self._folder)
        groups: dict[str, list[Any]] = defaultdict(list)
        for item in plan.items:
            groups[item.index.fqn.partition(".")[0]].append(item)
        results = []
        for group, items in groups.items():
            path = self._folder / f"{group}{self._suffix}"
            tensors: dict[str, Tensor] = {}
            offsets, memories = {}, set()
            for item in items:
                name = item.index.fqn.partition(".")[2]
                tensor = planner.resolve_data(item).contiguous()  # type: ignore[union-attr]
                # safetensors takes no memory twice: the 8-bit moments of all parameters share the
                # table of their values.
                memory = tensor.untyped_storage().data_ptr()
                tensors[name] = tensor.clone() if memory in memories else tensor
                memories.add(memory)
                if tensors[name].shape != item.tensor_data.size:
                    offsets[name] = list(item.tensor_data.chunk.offsets)
            with usual_mode(path):
                save_file(tensors, path, {_OFFSETS: json.dumps(offsets)} if offsets else None)
            written = (path.name, sha256_of(path))
            sync(path)
            results += [WriteResult(item.index, path.stat().st_size, written) for item in items]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Called by one process, after all have written."""
        self._finish_folder(dict(result.storage_data for mine in results for result in mine))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Folders are given when this is made, not by an id."""
        return False


def require_shared(path: Path) -> None:
    """Raise TrainingError where another process's file or folder is not here."""
    if not path.exists():
        raise TrainingError(
            f"{path} was written by another process and is not here: output_dir has to be on a "
            "disk that all processes share"
        )


class SafetensorsReader(StorageReader):
    """Reads the `files` of a folder; `current` gives the names of today to those in a file."""

    def __init__(
        self,
        files: list[Path],
        current: Callable[[Mapping[str, str]], Mapping[str, str]],
    ) -> None:
        # Where the part of a tensor that begins at an offset is: its file and its name in there.
        self._places: dict[MetadataIndex, tuple[Path, str]] = {}
        self.tensors: dict[str, TensorStorageMetadata] = {}
        for file in files:
            self._list_file(file, current)

    def _list_file(
        self, file: Path, current: Callable[[Mapping[str, str]], Mapping[str, str]]
    ) -> None:
        group = file.stem.partition("-")[0]
        with safe_open(file, "pt") as opened:
            offsets = json.loads((opened.metadata() or {}).get(_OFFSETS, "{}"))
            for name, stored in current({name: name for name in opened.keys()}).items():  # noqa: SIM118
                part = opened.get_slice(stored)
                shape = part.get_shape()
                begin = torch.Size(offsets.get(stored, [0] * len(shape)))
                self._add(f"{group}.{name}", begin, torch.Size(shape), _DTYPES[part.get_dtype()])
                self._places[MetadataIndex(f"{group}.{name}", begin)] = (file, stored)

    def _add(self, name: str, begin: torch.Size, shape: torch.Size, dtype: torch.dtype) -> None:
        if name not in self.tensors:
            properties = TensorProperties(dtype=dtype)
            self.tensors[name] = TensorStorageMetadata(properties, torch.Size([0] * len(shape)), [])
        whole = self.tensors[name]
        whole.chunks.append(ChunkStorageMetadata(begin, shape))
        ends = [first + length for first, length in zip(begin, shape, strict=True)]
        whole.size = torch.Size(map(max, zip(ends, whole.size, strict=True)))

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A reader reads one folder."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Which parts of tensors there are."""
        return Metadata(dict(self.tensors))

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """All that is needed was read when the reader was made."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """What a process reads does not depend on others."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """What a process reads does not depend on others."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read what overlaps with what a process holds, and no more."""
        by_file: dict[Path, list[tuple[str, Any]]] = defaultdict(list)
        for item in plan.items:
            file, stored = self._places[item.storage_index]
            by_file[file].append((stored, item))
        for file, items in by_file.items():
            with safe_open(file, "pt") as opened:
                for stored, item in items:
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(_part(opened, stored, item))
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Folders are given when this is made, not by an id."""
        return False


def _part(opened: Any, stored: str, item: Any) -> Tensor:
    """What a process reads of a tensor; no more of it is loaded."""
    if not item.lengths:  # a number has no slices
        number: Tensor = opened.get_tensor(stored)
        return number
    part: Tensor = opened.get_slice(stored)[
        tuple(
            slice(first, first + length)
            for first, length in zip(item.storage_offsets, item.lengths, strict=True)
        )
    ]
    return part


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
