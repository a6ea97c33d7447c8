"""The boxes of a model in folders: each written in its library's format, and read strictly; and
which tensors of a model belong to which part of a folder.

Every misfit of a folder is a CheckpointError that names it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    Florence2Model,
    PreTrainedModel,
    RobertaTokenizer,
)

from vlv.checkpoints.components import (
    fit_weights,
    load_network,
    load_tokenizer,
    read_settings,
    save_network,
    save_tokenizer,
    tied_names,
    untied_state,
    write_settings,
)
from vlv.checkpoints.language_model import (
    language_model_class,
    load_language_model,
    save_language_model,
)
from vlv.checkpoints.manifest import note_component
from vlv.checkpoints.parts import (
    CAPTION_DECODER_SETTINGS_FILE,
    ENCODER_SETTINGS_FILE,
    GGUF_FILE,
    PARTS,
    PartName,
    Quantization,
)
from vlv.checkpoints.weights import load_weights, require_shapes, save_weights
from vlv.errors import CheckpointError
from vlv.models.caption_decoder import CaptionDecoder, build_psi
from vlv.models.config import (
    CaptionDecoderDescription,
    EncoderDescription,
    Entry,
    FamilyName,
)
from vlv.models.encoder import VLVEncoder
from vlv.models.families import FAMILIES, load_family
from vlv.models.ood import OODDetector, OODSettings
from vlv.models.text_tower import ConditioningEntry, TextTower
from vlv.models.vlv import VLVModel

_HEAD_FILE = PARTS["head"].file
_PSI_FILE = PARTS["psi"].file
_LANGUAGE_MODEL_FOLDER = Path(PARTS["language_model"].folder).name
# Weights and settings of the OOD detector; older folders have the second pair.
_OOD_FILES = (
    ("ood_detector.safetensors", "vlv_ood_detector.json"),
    ("familiarity.safetensors", "vlv_familiarity.json"),
)


def save_encoder(encoder: VLVEncoder, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write Florence-2 in the library's format, queries and phi beside it."""
    save_network(encoder.florence, folder, dtype)
    save_weights(encoder.head_state(), folder / _HEAD_FILE, dtype)
    save_encoder_settings(encoder, folder)


def save_encoder_settings(encoder: VLVEncoder, folder: Path) -> None:
    """Write what is neither Florence-2 nor a tensor: settings and tokenizer."""
    description = EncoderDescription.of(encoder.settings, encoder.slots)
    write_settings(description, folder / ENCODER_SETTINGS_FILE)
    save_tokenizer(encoder.tokenizer, folder)


def load_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> VLVEncoder:
    """Read what `save_encoder` wrote."""
    description = read_settings(EncoderDescription, folder / ENCODER_SETTINGS_FILE)
    florence = load_network(Florence2Model, folder, dtype)
    tokenizer = load_tokenizer(RobertaTokenizer, folder)
    width = florence.config.text_config.d_model
    require_shapes(
        folder / _HEAD_FILE,
        {
            "queries": (1, description.num_queries, width),
            **_last_of_phi(description.slot_widths, width),
        },
    )
    encoder = VLVEncoder(florence, tokenizer, description.settings, description.slot_widths)
    _check_room(encoder, folder)
    head = load_weights(folder / _HEAD_FILE, dtype)
    stored = frozenset(name for name in encoder.state_dict() if name.startswith("florence."))
    fit_weights(encoder, head, folder / _HEAD_FILE, elsewhere=stored)
    return encoder.eval()


def _last_of_phi(slots: dict[str, int], width: int) -> dict[str, tuple[int, int]]:
    """Shapes of the matrices that write the slots of z."""
    if len(slots) == 1:
        return {"phi.2.weight": (next(iter(slots.values())), width)}
    return {f"phi.{name}.2.weight": (out, width) for name, out in slots.items()}


def _check_room(encoder: VLVEncoder, folder: Path) -> None:
    """Raise CheckpointError where pictures, prompt or queries need more places than there are."""
    vision, text = encoder.florence.config.vision_config, encoder.florence.config.text_config
    side = encoder.settings.image_size
    for kernel, stride, padding in zip(
        vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True
    ):
        side = (side + 2 * padding - kernel) // stride + 1
    places, ids = text.max_position_embeddings, encoder.prompt_ids
    # One token more is the mean over all.
    sequence = side**2 + 1 + ids.shape[1]
    for fault, holds in (
        (f"its pictures are {side} patches wide", 0 < side <= vision.max_position_embeddings),
        (f"pictures and prompt take {sequence} of {places} positions", sequence <= places),
        (
            f"its queries take {encoder.settings.num_queries} of {places} positions",
            encoder.settings.num_queries <= places,
        ),
        (
            f"its prompt has the token {int(ids.max())} of {text.vocab_size}",
            int(ids.max()) < text.vocab_size,
        ),
    ):
        if not holds:
            raise CheckpointError(f"The encoder in {folder} cannot be used: {fault}.")


def save_text_tower(tower: TextTower, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write the text encoders and their tokenizers in the library's format."""
    for name, encoder in tower.encoders.items():
        place = text_encoder_folder(name, folder)
        save_network(encoder, place, dtype)
        save_tokenizer(tower.tokenizers[name], place)


def load_text_tower(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    family: FamilyName = "stable-diffusion",
    entry: Entry = "embeddings",
) -> TextTower:
    """Read what `save_text_tower` wrote."""
    known = load_family(family)
    places = {
        name: text_encoder_folder(name, folder)
        for name in FAMILIES[family].text_encoders
        if name not in FAMILIES[family].optional or text_encoder_folder(name, folder).is_dir()
    }
    encoders = {
        name: load_network(known.text_encoder_classes[name], place, dtype)
        for name, place in places.items()
    }
    tokenizers = {
        name: load_tokenizer(known.tokenizer_classes[name], place) for name, place in places.items()
    }
    tower = known.text_tower(encoders, tokenizers)
    return (tower if entry == "embeddings" else ConditioningEntry(tower)).eval()


def text_encoder_folder(name: str, folder: Path) -> Path:
    """Where a text encoder lies in the folder of a text tower: the only one at its top."""
    return folder if name == "text_tower" else folder / name


def save_caption_decoder(
    decoder: CaptionDecoder, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write the language model with its tokenizer in the library's format, psi beside it."""
    save_language_model(decoder.lm, decoder.tokenizer, folder / _LANGUAGE_MODEL_FOLDER, dtype)
    save_weights(decoder.psi.state_dict(), folder / _PSI_FILE, dtype)
    save_caption_decoder_settings(decoder, folder)


def save_caption_decoder_settings(decoder: CaptionDecoder, folder: Path) -> None:
    """Write what is neither the language model nor a tensor."""
    description = CaptionDecoderDescription(conditioning_width=decoder.psi[0].in_features)
    write_settings(description, folder / CAPTION_DECODER_SETTINGS_FILE)


def load_caption_decoder(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization | None = None,
    device: torch.device | None = None,
) -> CaptionDecoder:
    """Read what `save_caption_decoder` wrote.

    A language model in 8bit or 4bit is on `device` (None: the CPU) from the beginning, psi never.
    With int8 its layers are still to be changed (`vlv.models.int8`), after an adapter is merged.
    """
    description = read_settings(CaptionDecoderDescription, folder / CAPTION_DECODER_SETTINGS_FILE)
    place = folder / _LANGUAGE_MODEL_FOLDER
    lm: PreTrainedModel
    if (place / GGUF_FILE).is_file():
        raise CheckpointError(
            f"The language model in {place} is a GGUF file, which --engine llama.cpp runs; use "
            "that, or the model folder it was exported from."
        )
    if quantization is None or quantization == "int8":
        lm, tokenizer = load_language_model(place, dtype)
    else:
        from vlv.checkpoints.quantization import load_quantized

        kind, tokenizer = language_model_class(place), load_tokenizer(AutoTokenizer, place)
        lm = load_quantized(kind, place, dtype, quantization, device or torch.device("cpu"))
    width = lm.get_input_embeddings().embedding_dim
    require_shapes(folder / _PSI_FILE, {"0.weight": (width, description.conditioning_width)})
    decoder = CaptionDecoder(lm, tokenizer, description.conditioning_width)
    fit_weights(decoder.psi, load_weights(folder / _PSI_FILE, dtype), folder / _PSI_FILE)
    return decoder.eval()


def load_psi(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Psi of what `save_caption_decoder` wrote, without the language model."""
    description = read_settings(CaptionDecoderDescription, folder / CAPTION_DECODER_SETTINGS_FILE)
    path = folder / _PSI_FILE
    weights = load_weights(path, dtype)
    if (last := weights.get("2.weight")) is None or last.dim() != 2:
        raise CheckpointError(f"{path} lacks the tensor '2.weight'.")
    psi = build_psi(description.conditioning_width, len(last))
    fit_weights(psi, weights, path)
    return psi.eval()


def save_ood_detector(detector: OODDetector, folder: Path) -> None:
    """Write tensors and settings; the matrix in half precision."""
    weights, settings = _OOD_FILES[0]
    state = {"mean": detector.mean, "whitening": detector.whitening.half()}
    save_weights(state, folder / weights)
    write_settings(detector.settings, folder / settings)


def load_ood_detector(folder: Path) -> OODDetector:
    """Read what `save_ood_detector` wrote, or an older version under other names."""
    weights, settings = next(
        (files for files in _OOD_FILES if (folder / files[1]).is_file()), _OOD_FILES[0]
    )
    detector = OODDetector(read_settings(OODSettings, folder / settings))
    fit_weights(detector, load_weights(folder / weights, torch.float32), folder / weights)
    return detector


def add_ood_detector(detector: OODDetector, folder: Path) -> None:
    """Put it into a model folder, in place of an older one; nothing else there is written."""
    save_ood_detector(detector, folder / "ood_detector")
    note_component("ood_detector", folder)


def stored_tensors(model: VLVModel) -> dict[PartName, dict[str, Tensor]]:
    """The tensors that a model folder holds of a model, by part and name; tied ones once."""
    found: dict[PartName, dict[str, Tensor]] = {
        part: untied_state(network) for part, network in networks(model).items()
    }
    if "encoder" in model.loaded:
        found["head"] = model.encoder.head_state()
    if "caption_decoder" in model.loaded:
        found["psi"] = model.caption_decoder.psi.state_dict()
    return found


def tied_tensors(model: VLVModel) -> dict[PartName, dict[str, str]]:
    """Second names of tensors, and the names under which those are stored."""
    return {part: tied_names(network) for part, network in networks(model).items()}


def networks(model: VLVModel) -> dict[PartName, nn.Module]:
    """The libraries' networks of the boxes that are in memory."""
    found: dict[Any, nn.Module] = {}
    if "encoder" in model.loaded:
        found["encoder"] = model.encoder.florence
    if "text_tower" in model.loaded:
        found |= model.text_tower.encoders
    if "decoder" in model.loaded:
        decoder = model.decoder
        found |= {"vae": decoder.vae, decoder.family.record.denoiser: decoder.denoiser}
    if "caption_decoder" in model.loaded:
        found["language_model"] = model.caption_decoder.lm
    return found
