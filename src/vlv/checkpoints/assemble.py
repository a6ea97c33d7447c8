"""An untrained VLV out of published models: Florence-2, Stable Diffusion, a language model.

Knows the layouts in which those are published and the libraries' own loaders; knows nothing of
training. Queries, phi and psi are fresh; all else has its published weights.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import (
    AutoTokenizer,
    Florence2Model,
    RobertaTokenizer,
)

from vlv.checkpoints.components import load_published, load_tokenizer
from vlv.checkpoints.diffusion import load_scheduler
from vlv.checkpoints.hub import (
    USUAL_DOWNLOAD,
    DownloadOptions,
    resolve_base_model,
    snapshot_commit,
)
from vlv.checkpoints.inspection import inspect_base_model, read_config
from vlv.checkpoints.language_model import language_model_class
from vlv.checkpoints.memory import published_memory
from vlv.checkpoints.parts import PARTS, PIPELINE_FILE, BaseModelName
from vlv.checkpoints.published import (
    DECODER_IMAGE_SIZE,
    ENCODER_IMAGE_SIZE,
    default_base_model,
    gate_of,
    licence_of,
    revision_of,
)
from vlv.errors import CheckpointError, ConfigError
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import EncoderSettings, FamilyName
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import VLVEncoder
from vlv.models.families import FAMILIES, family_of, load_family
from vlv.models.text_tower import TextTower
from vlv.models.vlv import VLVModel
from vlv.text import first_fault, printable

# The paper's, which are CLIP's positions. Text encoders with room for more get as many, since the
# caption decoder reads them all.
_QUERIES = 77


def assemble(
    encoder: str | Path | None = None,
    decoder: str | Path | None = None,
    language_model: str | Path | None = None,
    *,
    revision: Mapping[str, str] | None = None,
    num_queries: int | None = None,
    decoder_image_size: int = DECODER_IMAGE_SIZE,
    dtype: torch.dtype = torch.float32,
) -> VLVModel:
    """The model that `VLV.from_components` describes."""
    names: dict[BaseModelName, str] = {
        "encoder": str(encoder or default_base_model("encoder")),
        "decoder": str(decoder or default_base_model("decoder")),
        "language_model": str(language_model or default_base_model("language_model")),
    }
    folders = resolve_base_models(names, revision)
    family = published_family(folders["decoder"])
    if (needed := published_memory(folders, family, dtype)) is not None:
        print(f"vlv: {printable(needed)}", file=sys.stderr)
    tower = _text_tower(folders["decoder"], family, dtype)
    diffusion = _diffusion_decoder(folders["decoder"], family, decoder_image_size, dtype)
    settings = encoder_settings(
        folders["encoder"], num_queries or min(tower.positions, _QUERIES), decoder_image_size
    )
    model = VLVModel.from_boxes(
        encoder=VLVEncoder(
            load_published(Florence2Model, folders["encoder"], dtype),
            load_tokenizer(RobertaTokenizer, folders["encoder"]),
            settings,
            tower.slot_widths,
        ).to(dtype),
        text_tower=tower,
        decoder=diffusion,
        caption_decoder=CaptionDecoder(
            load_published(
                language_model_class(folders["language_model"]), folders["language_model"], dtype
            ),
            load_tokenizer(AutoTokenizer, folders["language_model"]),
            tower.conditioning_width,
        ).to(dtype),
        provenance={"parts": base_model_records(names, folders)},
    )
    model.encoder.start_at(tower.embedding_scales())
    for box in (model.encoder, model.text_tower, model.decoder, model.caption_decoder):
        box.eval()
    return model


def resolve_base_models(
    names: Mapping[BaseModelName, str],
    revision: Mapping[str, str] | None,
    *,
    weights: bool = True,
    download: DownloadOptions = USUAL_DOWNLOAD,
) -> dict[BaseModelName, Path]:
    """The folders of the parts, fetched from the Hub where they are ids, and looked at; without
    `weights`, only configs and tokenizers.

    Of a known id the commit of `published.yaml` is taken where `revision` names none.
    """
    unknown = sorted(set(revision or {}) - set(names))
    if unknown:
        raise ConfigError(
            f"A revision was given for {unknown[0]!r}; the parts are {', '.join(names)}."
        )
    folders = {
        role: resolve_base_model(
            role,
            name,
            (revision or {}).get(role),
            published=revision_of(role, name),
            gate=gate_of(role, name),
            weights=weights,
            download=download,
        )
        for role, name in names.items()
    }
    for role, folder in folders.items():
        inspect_base_model(role, folder)  # before gigabytes are read
    if "decoder" in folders:
        published_family(folders["decoder"])
    return folders


def published_family(folder: Path) -> FamilyName:
    """The family of a published text-to-image model; Stable Diffusion where it does not say.

    Raises CheckpointError for one of no supported family.
    """
    index = folder / PIPELINE_FILE
    usual: FamilyName = "stable-diffusion"
    if not index.is_file():
        return usual
    return family_of(str(read_config(index).get("_class_name", FAMILIES[usual].pipeline)))


def _text_tower(folder: Path, family: FamilyName, dtype: torch.dtype) -> TextTower:
    """The text tower of a published model, without the encoders that the family can do without."""
    known = load_family(family)
    names = known.record.required
    encoders, tokenizers = {}, {}
    for name in names:
        published = PARTS[name].published
        assert published is not None  # the library's own
        place = published[1]
        kind = known.text_encoder_classes[name]
        encoders[name] = load_published(kind, folder / place, dtype)
        tokenizers[name] = load_tokenizer(
            known.tokenizer_classes[name], folder / place.replace("text_encoder", "tokenizer")
        )
    index = folder / PIPELINE_FILE
    pipeline = read_config(index) if index.is_file() else {}
    for name, settings in known.text_encoder_settings(pipeline).items():
        encoders[name].config.update(dict(settings))
    return known.text_tower(encoders, tokenizers)


def _diffusion_decoder(
    folder: Path, family: FamilyName, image_size: int, dtype: torch.dtype
) -> DiffusionDecoder:
    known = load_family(family)
    return DiffusionDecoder(
        load_published(known.vae_class, folder / "vae", dtype),
        load_published(known.denoiser_class, folder / known.record.denoiser, dtype),
        load_scheduler(folder / "scheduler", family),
        image_size,
        family,
    )


def base_model_records(
    names: Mapping[BaseModelName, str], folders: Mapping[BaseModelName, Path]
) -> dict[str, Any]:
    """What a checkpoint says of what it was made of: id, commit and licence of each part."""
    return {
        role: {
            "id": name,
            "revision": snapshot_commit(folders[role]),
            "licence": licence_of(role, name) or "as stated where the part was published",
        }
        for role, name in names.items()
    }


def encoder_settings(folder: Path, num_queries: int, decoder_image_size: int) -> EncoderSettings:
    """Settings of an encoder from the preprocessor_config.json of its Florence-2, if it has one.

    The picture is cropped to what the decoder draws, as in the paper, and then enlarged to the
    size that Florence-2 wants.
    """
    settings: dict[str, Any] = {"image_size": ENCODER_IMAGE_SIZE}
    path = folder / "preprocessor_config.json"
    if path.is_file():
        published = read_config(path)
        size = published.get("size")
        if isinstance(size, dict):
            settings["image_size"] = size.get("height", ENCODER_IMAGE_SIZE)
        for name in ("image_mean", "image_std"):
            if name in published:
                settings[name] = published[name]
    try:
        return EncoderSettings(num_queries=num_queries, crop_size=decoder_image_size, **settings)
    except ValidationError as error:
        fault = first_fault(error, "its settings")
        raise CheckpointError(f"{path} cannot be used: {fault}.") from error
