"""The model that is fine-tuned, its base."""

from dataclasses import dataclass
from pathlib import Path

from vlv.checkpoints.adapters import adapter_record, captioner_hash
from vlv.checkpoints.components import read_settings
from vlv.checkpoints.hub import EMBEDDED, resolve, snapshot_commit
from vlv.checkpoints.manifest import read_manifest
from vlv.checkpoints.opening import model_folder
from vlv.checkpoints.parts import CAPTION_DECODER_SETTINGS_FILE, ENCODER_SETTINGS_FILE
from vlv.errors import CheckpointError
from vlv.models.config import (
    AdapterRecord,
    CaptionDecoderDescription,
    Component,
    EncoderDescription,
    Manifest,
)
from vlv.models.vlv import VLVModel
from vlv.text import printable
from vlv.training.finetuning.config import FinetuneSettings

_NEEDED: tuple[Component, ...] = ("encoder", "text_tower", "caption_decoder")


@dataclass(frozen=True)
class Base:
    """The model that is fine-tuned."""

    name: str
    folder: Path
    manifest: Manifest
    record: AdapterRecord
    image_size: int
    """Side in pixels of what the encoder sees."""
    queries: int


def open_base(settings: FinetuneSettings) -> Base:
    """Open what can be read of it without its weights.

    Raises CheckpointError where it cannot be opened, writes no captions, or is a fine-tune.
    """
    folder = model_folder(settings.model, settings.revision, settings.base_models)
    if adapter_record(folder) is not None:
        raise CheckpointError(
            f"{printable(settings.model)} is a fine-tune itself; merge it first with `vlv finetune "
            "--merge`, and fine-tune the result"
        )
    manifest = read_manifest(folder)
    model = VLVModel(manifest, folder)
    for name in _NEEDED:
        model.require(name)
    seen = read_settings(EncoderDescription, folder / "encoder" / ENCODER_SETTINGS_FILE)
    crop = None
    if settings.view == "crop":
        crop = seen.crop_size or manifest.config.decoder_image_size
    local = Path(settings.model).expanduser()
    is_folder = settings.model not in EMBEDDED and local.exists()
    record = AdapterRecord(
        base=str(local.resolve()) if is_folder else settings.model,
        revision=snapshot_commit(resolve(settings.model, settings.revision)),
        base_sha256=captioner_hash(folder),
        base_models=settings.base_models,
        method=settings.method,
        crop_size=crop,
    )
    return Base(settings.model, folder, manifest, record, seen.image_size, seen.num_queries)


def conditioning_bytes(base: Base) -> int:
    """Of one picture, in float32."""
    width = read_settings(
        CaptionDecoderDescription, base.folder / "caption_decoder" / CAPTION_DECODER_SETTINGS_FILE
    ).conditioning_width
    return base.queries * width * 4
