"""A model folder -> one checkpoint in the layout of the paper's authors.

What `convert_authors` read comes back bit by bit, under the same names; a model of our own gets
the copies that the authors' modules expect. Tensors pass through one shard at a time.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from vlv.checkpoints.authors.conversion import UNUSED_FILE, AuthorsRecord
from vlv.checkpoints.authors.naming import (
    TRANSPOSED,
    Stage,
    Target,
    florence_copies,
    to_authors,
)
from vlv.checkpoints.inspection import inspect_model
from vlv.checkpoints.manifest import read_manifest
from vlv.checkpoints.parts import AUTHORS_RECORD, MANIFEST_FILE, PartName, family_parts
from vlv.checkpoints.weights import (
    MAX_SHARD_BYTES,
    TensorFiles,
    stored_bytes,
    weight_files,
    write_weights,
)
from vlv.errors import CheckpointError, ConfigError
from vlv.models.config import FamilyName, Manifest

# Theirs is Stable Diffusion 2.1.
_FAMILY: FamilyName = "stable-diffusion"
_SHARED = Target("encoder", "language_model.shared.weight")
_WORDS = Target("language_model", "model.embed_tokens.weight")
_HEAD = Target("language_model", "lm_head.weight")
_LOGITS_BIAS = "model.language_model.final_logits_bias"


def export_authors(
    folder: str | Path,
    out: str | Path,
    *,
    stage: Stage | None = None,
    prefix: str = "",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
    """Write the model in `folder` as a checkpoint of the authors; the names of its tensors.

    out: a .safetensors file (in shards with an index where it is large), or a .pt file, which is
    made in memory. stage: None is 2 for a model with a captioner and 1 otherwise. prefix: what to
    put in front of every name, such as "module.".

    Raises CheckpointError for a folder that is no model or lacks what the layout needs, and
    ConfigError for another kind of file or another family of text-to-image models.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix not in (".safetensors", ".pt"):
        raise ConfigError(f"{out} must end in .safetensors or .pt")
    inspect_model(folder)
    manifest = read_manifest(folder)
    stage = stage or (2 if "caption_decoder" in manifest.components else 1)
    _require(manifest, stage, folder)
    model = _ModelFiles(folder, manifest, stage)

    def read(names: Iterable[str]) -> dict[str, Tensor]:
        return {name: model.read(name.removeprefix(prefix)) for name in names}

    names = [prefix + name for name in model.names]
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".pt":
        torch.save(read(names), out)
    else:
        sizes = {name: stored_bytes(model.shape(name.removeprefix(prefix)), None) for name in names}
        write_weights(sizes, read, out, None, max_shard_bytes)
    return names


def _record(manifest: Manifest, folder: Path) -> AuthorsRecord | None:
    """What vlv.json records of the checkpoint that the model was made from, if it was."""
    record = manifest.provenance.get(AUTHORS_RECORD)
    try:
        return None if record is None else AuthorsRecord.model_validate(record)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CheckpointError(
            f"{folder / MANIFEST_FILE} is wrong at provenance.{AUTHORS_RECORD}.{where}."
        ) from error


def _require(manifest: Manifest, stage: Stage, folder: Path) -> None:
    if manifest.config.family != _FAMILY:
        raise ConfigError(
            f"{folder} is a model of the family {manifest.config.family}; the layout of the authors"
            f" is that of {_FAMILY} alone"
        )
    needed = ["encoder", "text_tower"]
    needed += ["caption_decoder"] if stage == 2 else []
    for name in needed:
        if name not in manifest.components:
            raise CheckpointError(
                f"{folder} has no {name}, which a checkpoint of stage {stage} needs."
            )


class _ModelFiles:
    """The tensors of a model folder by the authors' names."""

    def __init__(self, folder: Path, manifest: Manifest, stage: Stage) -> None:
        self._files: dict[PartName, TensorFiles] = {}
        self._where: dict[str, tuple[PartName, str]] = {}
        self._copies: dict[str, str] = {}
        self._zeros: dict[str, Tensor] = {}
        self._short: dict[str, int] = {}
        self._kept: TensorFiles | None = None
        for part, place in family_parts(_FAMILY).items():
            component = place.component
            if component not in manifest.components:
                continue
            if stage == 1 and component == "caption_decoder":
                continue
            self._files[part] = _tensor_files(folder / place.path)
            for name in self._files[part].tensors:
                self._where[to_authors(Target(part, name), stage)] = (part, name)
        record = _record(manifest, folder)
        if record is not None and record.stage == stage:
            self._copies = dict(record.copies)
            self._short = dict(record.short)
            if (folder / UNUSED_FILE).is_file() or (folder / f"{UNUSED_FILE}.index.json").is_file():
                self._kept = _tensor_files(folder / UNUSED_FILE)
            else:  # the model was saved anew since then
                self._add_what_their_modules_expect(stage, record.kept)
        else:
            self._add_what_their_modules_expect(stage)

    def _add_what_their_modules_expect(
        self, stage: Stage, wanted: Sequence[str] | None = None
    ) -> None:
        """Copies and zeros under the names that nothing here computes with (None: all of them)."""
        shared = to_authors(_SHARED, stage)
        copies = dict.fromkeys(florence_copies(stage), shared)
        head, words = to_authors(_HEAD, stage), to_authors(_WORDS, stage)
        if words in self._where and head not in self._where:
            copies[head] = words
        like = self.shape(shared)
        bias = shared.removesuffix("model.language_model.model.shared.weight") + _LOGITS_BIAS
        zeros = {bias: torch.zeros(1, like.shape[0], dtype=like.dtype)}
        asked = {*copies, *zeros} if wanted is None else set(wanted)
        self._copies |= {name: of for name, of in copies.items() if name in asked}
        self._zeros |= {name: zero for name, zero in zeros.items() if name in asked}

    @property
    def names(self) -> list[str]:
        kept = [] if self._kept is None else list(self._kept.tensors)
        return [*self._where, *self._copies, *self._zeros, *kept]

    def shape(self, name: str) -> Tensor:
        """A tensor without its values."""
        if name in self._zeros:
            return self._zeros[name]
        if name in self._copies:
            return self.shape(self._copies[name])
        if name in self._where:
            part, ours = self._where[name]
            return self._files[part].tensors[ours]
        assert self._kept is not None
        return self._kept.tensors[name]

    def read(self, name: str) -> Tensor:
        if name in self._zeros:
            return self._zeros[name]
        if name in self._copies:
            return self.read(self._copies[name])
        if name in self._where:
            part, ours = self._where[name]
            tensor = self._files[part].read([ours])[ours]
            tensor = tensor[: self._short.get(name)]
            return tensor.T.contiguous() if ours == TRANSPOSED else tensor
        assert self._kept is not None
        return self._kept.read([name])[name]


def _tensor_files(path: Path) -> TensorFiles:
    """A component's weights, in one file or in shards."""
    weight_files(path)  # says what is missing
    return TensorFiles(path if path.is_file() else path.with_name(path.name + ".index.json"))
