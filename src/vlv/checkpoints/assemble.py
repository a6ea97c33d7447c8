"""An untrained VLV out of published models: Florence-2, Stable Diffusion, a language model.

Knows the layouts in which those are published and the libraries' own loaders; knows nothing of
training. Queries, phi and psi are fresh; all else has its published weights.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from pydantic import ValidationError
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    CLIPTokenizer,
    Florence2Model,
    PreTrainedModel,
    RobertaTokenizer,
)

from vlv.checkpoints.components import (
    brief,
    check_buffers,
    load_tokenizer,
    tied_names,
)
from vlv.checkpoints.hub import part_revision, resolve_part
from vlv.checkpoints.inspection import inspect_part, read_config
from vlv.checkpoints.language_model import language_model_class
from vlv.checkpoints.published import (
    DECODER_IMAGE_SIZE,
    ENCODER_IMAGE_SIZE,
    Role,
    default_part,
    licence_of,
    revision_of,
)
from vlv.checkpoints.sizes import tensor_shapes
from vlv.errors import CheckpointError, ConfigError
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import EncoderSettings
from vlv.models.diffusion_decoder import DiffusionDecoder, load_scheduler
from vlv.models.encoder import VLVEncoder
from vlv.models.text_tower import TextTower

if TYPE_CHECKING:
    from vlv.models.vlv import VLV

# Tensors of a published Florence-2 that VLV has no use for: its head over words.
_UNUSED = frozenset({"lm_head.weight", "final_logits_bias"})


def assemble(
    encoder: str | Path | None = None,
    decoder: str | Path | None = None,
    language_model: str | Path | None = None,
    *,
    revision: Mapping[str, str] | None = None,
    num_queries: int | None = None,
    decoder_image_size: int = DECODER_IMAGE_SIZE,
    dtype: torch.dtype = torch.float32,
) -> "VLV":
    """The model that `VLV.from_components` describes."""
    from vlv.models.vlv import VLV

    names: dict[Role, str] = {
        "encoder": str(encoder or default_part("encoder")),
        "decoder": str(decoder or default_part("decoder")),
        "language_model": str(language_model or default_part("language_model")),
    }
    folders = resolve_parts(names, revision)
    tower = TextTower(
        load_published(CLIPTextModel, folders["decoder"] / "text_encoder", dtype),
        load_tokenizer(CLIPTokenizer, folders["decoder"] / "tokenizer"),
    )
    diffusion = DiffusionDecoder(
        load_published(AutoencoderKL, folders["decoder"] / "vae", dtype),
        load_published(UNet2DConditionModel, folders["decoder"] / "unet", dtype),
        load_scheduler(folders["decoder"] / "scheduler"),
        decoder_image_size,
    )
    settings = encoder_settings(
        folders["encoder"], num_queries or tower.positions, decoder_image_size
    )
    model = VLV.from_boxes(
        encoder=VLVEncoder(
            load_published(Florence2Model, folders["encoder"], dtype),
            load_tokenizer(RobertaTokenizer, folders["encoder"]),
            settings,
            tower.width,
        ).to(dtype),
        text_tower=tower,
        decoder=diffusion,
        caption_decoder=CaptionDecoder(
            load_published(
                language_model_class(folders["language_model"]), folders["language_model"], dtype
            ),
            load_tokenizer(AutoTokenizer, folders["language_model"]),
            tower.width,
        ).to(dtype),
        provenance={"parts": part_records(names, folders)},
    )
    for box in (model.encoder, model.text_tower, model.decoder, model.caption_decoder):
        box.eval()
    return model


def resolve_parts(
    names: Mapping[Role, str], revision: Mapping[str, str] | None, *, weights: bool = True
) -> dict[Role, Path]:
    """The folders of the parts, fetched from the Hub where they are ids, and looked at; without
    `weights`, configs and tokenizers alone.

    Of a known id the commit of `published.yaml` is taken where `revision` names none.
    """
    unknown = sorted(set(revision or {}) - set(names))
    if unknown:
        raise ConfigError(
            f"A revision was given for {unknown[0]!r}; the parts are {', '.join(names)}."
        )
    folders = {
        role: resolve_part(
            role,
            name,
            (revision or {}).get(role),
            published=revision_of(role, name),
            weights=weights,
        )
        for role, name in names.items()
    }
    for role, folder in folders.items():
        inspect_part(role, folder)  # before gigabytes are read
    return folders


def part_records(names: Mapping[Role, str], folders: Mapping[Role, Path]) -> dict[str, Any]:
    """What a checkpoint says of what it was made of: id, commit and licence of each part."""
    return {
        role: {
            "id": name,
            "revision": part_revision(folders[role]),
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
        first = error.errors()[0]
        raise CheckpointError(
            f"{path} cannot be used: {first['loc'][0]}: {first['msg']}."
        ) from error


def load_published(
    kind: type[PreTrainedModel] | type[ModelMixin],
    folder: Path,
    dtype: torch.dtype,
    **options: Any,
) -> Any:
    """A network with published weights, by its library's own loader, in eval mode; `options` are
    the loader's.

    The loaders only warn of tensors that do not fit; here they are errors that name the tensor.
    """
    if not folder.is_dir():
        raise CheckpointError(f"The folder {folder} is missing.")
    loader: Any = kind
    _check_stored(check_buffers(loader, folder), folder)
    if issubclass(kind, PreTrainedModel):
        options["trust_remote_code"] = False
    try:
        network, report = loader.from_pretrained(
            folder,
            torch_dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with their names
            **options,
        )
    except Exception as error:  # whatever a library trips over in files of unknown origin
        raise CheckpointError(
            f"The {kind.__name__} in {folder} cannot be read: {brief(error)}"
        ) from error
    for fault, names in (
        ("lacks", report["missing_keys"]),
        ("misshapes", [name for name, *_ in report["mismatched_keys"]]),
        ("has the unknown", set(report["unexpected_keys"]) - _UNUSED),
    ):
        if names:
            raise CheckpointError(f"{folder} {fault} tensor {min(names)!r} of {kind.__name__}.")
    return network.eval()


def _check_stored(network: torch.nn.Module, folder: Path) -> None:
    """Raise CheckpointError where a config announces more values than the folder's files hold."""
    tied = tied_names(network)
    announced = sum(x.numel() for name, x in network.named_parameters() if name not in tied)
    stored = sum(
        prod(shape) for file in folder.glob("*.safetensors") for _, shape in tensor_shapes(file)
    )
    if announced > stored:
        raise CheckpointError(
            f"{folder} lacks weights: its config is of {announced:,} values, and its files hold "
            f"{stored:,}."
        )
