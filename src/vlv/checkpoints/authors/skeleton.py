"""The networks that a checkpoint of the authors fills, without their weights.

Configs and tokenizers come from the base models; where a checkpoint's tensors have other sizes
(Florence-2 with 4096 positions, padded vocabularies), theirs count.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Florence2Config,
    Florence2Model,
    RobertaTokenizer,
)

from vlv.checkpoints.assemble import encoder_settings
from vlv.checkpoints.authors.naming import Target
from vlv.checkpoints.boxes import networks, save_caption_decoder_settings, save_encoder_settings
from vlv.checkpoints.components import (
    library_config,
    load_tokenizer,
    save_config,
    save_tokenizer,
    unusable,
)
from vlv.checkpoints.diffusion import load_scheduler
from vlv.checkpoints.language_model import language_model_class
from vlv.checkpoints.parts import PARTS, BaseModelName, PartName
from vlv.checkpoints.published import DECODER_IMAGE_SIZE
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import VLVEncoder
from vlv.models.families.stable_diffusion import CLIPTextTower
from vlv.models.vlv import VLVModel

# BART's learned positions begin at the third row.
_POSITION_OFFSET = 2
# Tensors whose shapes give sizes.
_SHARED = Target("encoder", "language_model.shared.weight")
# One config holds one number for both; in the 4096-position variant they may differ.
POSITIONS = (
    Target("encoder", "language_model.encoder.embed_positions.weight"),
    Target("encoder", "language_model.decoder.embed_positions.weight"),
)
_QUERIES = Target("head", "queries")
_WORDS = Target("language_model", "model.embed_tokens.weight")


def build_skeleton(
    tensors: Mapping[Target, Tensor], folders: Mapping[BaseModelName, Path]
) -> VLVModel:
    """The boxes that `tensors` are of, on the meta device; `folders` are the base models'.

    Raises CheckpointError for a base model whose config or tokenizer is missing or of another kind.
    """
    parts = {target.part for target in tensors}
    with torch.device("meta"):
        tower = _text_tower(folders["decoder"])
        return VLVModel.from_boxes(
            encoder=_encoder(tensors, folders["encoder"], tower.slot_widths),
            text_tower=tower,
            decoder=_decoder(folders["decoder"]) if parts & {"vae", "unet"} else None,
            caption_decoder=(
                _caption_decoder(tensors, folders["language_model"], tower.width)
                if "language_model" in folders
                else None
            ),
        )


def write_settings(model: VLVModel, folder: Path, dtypes: Mapping[PartName, torch.dtype]) -> None:
    """Write all of a model folder that is neither a tensor nor vlv.json; dtypes by part."""
    for part, network in networks(model).items():
        save_config(network, (folder / PARTS[part].path).parent, dtypes[part])
    save_encoder_settings(model.encoder, folder / "encoder")
    save_tokenizer(model.text_tower.tokenizers["text_tower"], folder / "text_tower")
    if "decoder" in model.loaded:
        model.decoder.scheduler.save_pretrained(folder / "scheduler")
    if "caption_decoder" in model.loaded:
        caption_decoder = model.caption_decoder
        save_caption_decoder_settings(caption_decoder, folder / "caption_decoder")
        save_tokenizer(caption_decoder.tokenizer, folder / PARTS["language_model"].folder)


def _encoder(
    tensors: Mapping[Target, Tensor], folder: Path, slots: Mapping[str, int]
) -> VLVEncoder:
    config = library_config(Florence2Config, folder)
    text = config.text_config
    text.vocab_size = _rows(tensors, _SHARED, text.vocab_size)
    default = text.max_position_embeddings + _POSITION_OFFSET
    rows = max(_rows(tensors, target, default) for target in POSITIONS)
    text.max_position_embeddings = rows - _POSITION_OFFSET
    settings = encoder_settings(folder, _rows(tensors, _QUERIES, 1, axis=1), DECODER_IMAGE_SIZE)
    tokenizer = load_tokenizer(RobertaTokenizer, folder)
    return VLVEncoder(Florence2Model(config), tokenizer, settings, slots)


def _text_tower(folder: Path) -> CLIPTextTower:
    config = library_config(CLIPTextConfig, folder / "text_encoder")
    return CLIPTextTower(CLIPTextModel(config), load_tokenizer(CLIPTokenizer, folder / "tokenizer"))


def _decoder(folder: Path) -> DiffusionDecoder:
    return DiffusionDecoder(
        _diffusion_network(AutoencoderKL, folder / "vae"),
        _diffusion_network(UNet2DConditionModel, folder / "unet"),
        load_scheduler(folder / "scheduler"),
        DECODER_IMAGE_SIZE,
    )


def _diffusion_network(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_config(kind.load_config(folder, local_files_only=True))
    except Exception as error:  # whatever a library trips over in a config of unknown origin
        raise unusable(folder, error) from error


def _caption_decoder(tensors: Mapping[Target, Tensor], folder: Path, width: int) -> CaptionDecoder:
    kind = language_model_class(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config.vocab_size = _rows(tensors, _WORDS, config.vocab_size)
    return CaptionDecoder(kind(config), load_tokenizer(AutoTokenizer, folder), width)


def _rows(tensors: Mapping[Target, Tensor], target: Target, default: int, axis: int = 0) -> int:
    """The length of a tensor's axis; of one that is missing or misshapen, which is reported later,
    the base model's.
    """
    tensor = tensors.get(target)
    return default if tensor is None or tensor.dim() <= axis else tensor.shape[axis]
