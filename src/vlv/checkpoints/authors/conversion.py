"""The checkpoints of the paper's authors, of stage 1 or 2 -> a model folder.

Every tensor of the source is used or reported with the reason why not, every tensor of the target
is filled, and anything else is an error that names it. Tensors pass through one shard at a time;
the base models give configs and tokenizers only. The way back is `authors_export`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from vlv.checkpoints.assemble import base_model_records, resolve_base_models
from vlv.checkpoints.authors.naming import (
    TRANSPOSED,
    Stage,
    Target,
    Unused,
    stage_of,
    strip_wrapper,
    to_authors,
    to_ours,
)
from vlv.checkpoints.authors.skeleton import POSITIONS, build_skeleton, write_settings
from vlv.checkpoints.boxes import stored_tensors, tied_tensors
from vlv.checkpoints.hub import USUAL_DOWNLOAD, DownloadOptions, snapshot_commit
from vlv.checkpoints.manifest import new_model_folder, write_manifest
from vlv.checkpoints.parts import AUTHORS_RECORD, PARTS, BaseModelName, PartName
from vlv.checkpoints.published import DECODER_IMAGE_SIZE, default_base_model
from vlv.checkpoints.weights import MAX_SHARD_BYTES, TensorFiles, stored_bytes, write_weights
from vlv.errors import CheckpointError
from vlv.models.config import Component
from vlv.models.vlv import VLVModel

# Tensors that VLV does not compute with and that are no copies: kept for the way back.
UNUSED_FILE = "authors_unused.safetensors"


class AuthorsRecord(BaseModel):
    """What vlv.json records of the checkpoint, for the way back.

    revision: its commit, where it came from the Hub. copies: tensors that are copies, and of what.
    kept: those in `UNUSED_FILE`. short: tables of positions, and the number of their rows.
    """

    stage: Stage
    source: str
    revision: str | None = None
    copies: dict[str, str]
    kept: list[str]
    short: dict[str, int]


@dataclass(frozen=True)
class ConversionReport:
    """What became of a checkpoint: the components written, the number of its tensors, and those
    that VLV does not compute with, by name, with the reason.
    """

    stage: Stage
    components: list[Component]
    tensors: int
    unused: dict[str, str]


def convert_authors(
    source: str | Path,
    out: str | Path,
    *,
    encoder: str | Path | None = None,
    decoder: str | Path | None = None,
    language_model: str | Path | None = None,
    revision: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    download: DownloadOptions = USUAL_DOWNLOAD,
) -> ConversionReport:
    """Write a model folder from a checkpoint in the authors' layout.

    source: a file, or a folder or index of shards; safetensors or PyTorch files. encoder, decoder,
    language_model: ids or folders of the base models (None: the paper's). dtype: of the written
    weights; None keeps the source's.

    Raises CheckpointError for a tensor that is unknown, missing, misshapen or no true copy, and
    for a file that is damaged or holds more than tensors.
    """
    checkpoint = _Checkpoint(Path(source))
    bases: dict[BaseModelName, str] = {
        "encoder": str(encoder or default_base_model("encoder")),
        "decoder": str(decoder or default_base_model("decoder")),
    }
    if checkpoint.stage == 2:
        bases["language_model"] = str(language_model or default_base_model("language_model"))
    folders = resolve_base_models(bases, revision, weights=False, download=download)
    model = build_skeleton(checkpoint.placed, folders)
    tied = _match(checkpoint, model)
    copies = checkpoint.copies(tied)
    kept = sorted(set(checkpoint.unused) - set(copies))
    with new_model_folder(Path(out).absolute()) as building:
        dtypes = {part: dtype or checkpoint.dtype(part) for part in stored_tensors(model)}
        write_settings(model, building, dtypes)
        for part, tensors in stored_tensors(model).items():
            sizes = {
                name: stored_bytes(checkpoint.placed[Target(part, name)], dtype) for name in tensors
            }
            read = checkpoint.reader(part)
            write_weights(sizes, read, building / PARTS[part].path, dtype, max_shard_bytes)
        if kept:
            sizes = {name: stored_bytes(checkpoint.shapes[name], dtype) for name in kept}
            path = building / UNUSED_FILE
            write_weights(sizes, checkpoint.read, path, dtype, max_shard_bytes)
        record = checkpoint.record(copies, kept).model_dump()
        parts = base_model_records(bases, folders)
        manifest = model.manifest.model_copy(
            update={"provenance": {AUTHORS_RECORD: record, "parts": parts}}
        )
        manifest.config.decoder_image_size = DECODER_IMAGE_SIZE
        write_manifest(manifest, building)
    reasons = checkpoint.unused | {
        name: f"a copy of {copies[name]}" for name in copies if name not in checkpoint.unused
    }
    return ConversionReport(
        checkpoint.stage, model.manifest.components, len(checkpoint.shapes), reasons
    )


class _Checkpoint:
    """A checkpoint of the authors, by their names (without wrappers) and by ours.

    shapes: all tensors, on the meta device. placed: those that belong into a model folder.
    unused: the reasons of those that do not. short: tables of positions with fewer rows than the
    model's, which has as many of each kind, and the number of its rows.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._files = TensorFiles(source)
        self._stored: dict[str, str] = {}
        for stored in self._files.tensors:
            name = strip_wrapper(stored)
            if name in self._stored:
                raise CheckpointError(
                    f"{source} holds the tensor {name!r} twice: as {self._stored[name]!r} and as "
                    f"{stored!r}."
                )
            self._stored[name] = stored
        self.shapes = {name: self._files.tensors[stored] for name, stored in self._stored.items()}
        self.stage = stage_of(set(self.shapes))
        self.placed: dict[Target, Tensor] = {}
        self.unused: dict[str, str] = {}
        self.name_of: dict[Target, str] = {}
        self.short: dict[Target, int] = {}
        self._perhaps_copies: dict[str, Target] = {}
        for name, shape in self.shapes.items():
            self._place(name, shape)

    def _place(self, name: str, shape: Tensor) -> None:
        found = to_ours(name, self.stage)
        if found is None:
            raise CheckpointError(
                f"{self.source} holds the tensor {name!r}, which no checkpoint of the authors has."
            )
        if isinstance(found, Unused):
            self.unused[name] = found.reason
            if found.copy_of is not None:
                self._perhaps_copies[name] = found.copy_of
            return
        if found in self.placed:
            raise CheckpointError(
                f"{self.source} holds the tensor {self.name_of[found]!r} twice, also as {name!r}."
            )
        self.name_of[found] = name
        self.placed[found] = shape.T if found.name == TRANSPOSED else shape

    def dtype(self, part: PartName) -> torch.dtype:
        """The dtype of a part's floating tensors; the widest where they differ."""
        kinds = {x.dtype for target, x in self.placed.items() if target.part == part}
        return max(
            (kind for kind in kinds if kind.is_floating_point), key=lambda kind: kind.itemsize
        )

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by the authors' names."""
        wanted = {self._stored[name]: name for name in names}
        return {wanted[stored]: tensor for stored, tensor in self._files.read(wanted).items()}

    def reader(self, part: PartName) -> Callable[[Iterable[str]], dict[str, Tensor]]:
        """Tensors of a part by our names, as `write_weights` asks for them."""

        def read(names: Iterable[str]) -> dict[str, Tensor]:
            wanted = {self.name_of[Target(part, name)]: name for name in names}
            return {
                wanted[name]: self._as_here(Target(part, wanted[name]), tensor)
                for name, tensor in self.read(wanted).items()
            }

        return read

    def _as_here(self, target: Target, tensor: Tensor) -> Tensor:
        if target in self.short:
            # Rows of zeros for positions that no sequence of VLV is long enough to reach.
            return F.pad(tensor, (0, 0, 0, self.short[target] - tensor.shape[0]))
        return tensor.T if target.name == TRANSPOSED else tensor

    def copies(self, tied: Mapping[str, Target]) -> dict[str, str]:
        """Tensors that are copies of others, by the authors' names: those of `tied` have to be.

        Raises CheckpointError for a tied tensor with other values.
        """
        found: dict[str, str] = {}
        for name, original in {**self._perhaps_copies, **tied}.items():
            first = self.name_of[original]
            if self._equal(name, first):
                found[name] = first
            elif name in tied:
                raise CheckpointError(
                    f"{self.source} holds the tensor {name!r} with other values than {first!r}, to "
                    "which the model ties it."
                )
        return found

    def record(self, copies: dict[str, str], kept: list[str]) -> AuthorsRecord:
        """What the model folder remembers of the checkpoint."""
        rows = {self.name_of[target]: self.placed[target].shape[0] for target in self.short}
        return AuthorsRecord(
            stage=self.stage,
            source=self.source.name,
            revision=snapshot_commit(self.source),
            copies=copies,
            kept=kept,
            short=rows,
        )

    def _equal(self, name: str, other: str) -> bool:
        a, b = self.shapes[name], self.shapes[other]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        values = self.read([name, other])
        return torch.equal(values[name], values[other])


def _match(checkpoint: _Checkpoint, model: VLVModel) -> dict[str, Target]:
    """Check names and shapes against the networks; the tied tensors by the authors' names, and
    what each is tied to.
    """
    expected = {
        Target(part, name): tensor
        for part, tensors in stored_tensors(model).items()
        for name, tensor in tensors.items()
    }
    for target, tensor in expected.items():
        if target not in checkpoint.placed:
            name = to_authors(target, checkpoint.stage)
            raise CheckpointError(f"{checkpoint.source} lacks the tensor {name!r}.")
        shape = tuple(checkpoint.placed[target].shape)
        if target in POSITIONS and shape[1:] == tuple(tensor.shape[1:]) and shape < tensor.shape:
            checkpoint.short[target] = tensor.shape[0]
        elif shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{checkpoint.source} holds the tensor {checkpoint.name_of[target]!r} with shape "
                f"{tuple(checkpoint.shapes[checkpoint.name_of[target]].shape)}, which does not fit "
                f"{tuple(tensor.shape)} of the model's {target.name!r}."
            )
        stored = checkpoint.placed[target].dtype
        if stored.is_floating_point != tensor.dtype.is_floating_point or stored.is_complex:
            raise CheckpointError(
                f"{checkpoint.source} holds the tensor {checkpoint.name_of[target]!r} as "
                f"{stored}, where the model has {tensor.dtype}."
            )
    queries, positions = model.encoder.settings.num_queries, model.text_tower.positions
    if queries > positions:
        name = to_authors(Target("head", "queries"), checkpoint.stage)
        raise CheckpointError(
            f"{checkpoint.source} holds {queries} queries in {name!r}, and the text tower takes "
            f"{positions}."
        )
    ties = tied_tensors(model)
    tied: dict[str, Target] = {}
    for target in checkpoint.placed.keys() - expected.keys():
        name = checkpoint.name_of[target]
        if target.name not in ties.get(target.part, {}):
            raise CheckpointError(f"{checkpoint.source} holds the unknown tensor {name!r}.")
        tied[name] = Target(target.part, ties[target.part][target.name])
    return tied
