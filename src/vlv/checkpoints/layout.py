"""Which tensors of which box lie in which file of a model folder. Knows names and places only."""

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from vlv.checkpoints.components import (
    DIFFUSERS_WEIGHTS,
    TRANSFORMERS_WEIGHTS,
    tied_names,
    untied_state,
)

if TYPE_CHECKING:
    from vlv.models.vlv import VLV

Place = Literal["encoder", "head", "text_tower", "vae", "unet", "psi", "language_model"]

FILES: dict[Place, str] = {
    "encoder": f"encoder/{TRANSFORMERS_WEIGHTS}",
    "head": "encoder/vlv_head.safetensors",
    "text_tower": f"text_tower/{TRANSFORMERS_WEIGHTS}",
    "vae": f"vae/{DIFFUSERS_WEIGHTS}",
    "unet": f"unet/{DIFFUSERS_WEIGHTS}",
    "psi": "caption_decoder/psi.safetensors",
    "language_model": f"caption_decoder/language_model/{TRANSFORMERS_WEIGHTS}",
}


def stored_tensors(model: "VLV") -> dict[Place, dict[str, Tensor]]:
    """The tensors that a model folder holds of a model, by place and name; tied ones once."""
    found: dict[Place, dict[str, Tensor]] = {
        place: untied_state(network) for place, network in networks(model).items()
    }
    if "encoder" in model.loaded:
        found["head"] = model.encoder.head_state()
    if "caption_decoder" in model.loaded:
        found["psi"] = model.caption_decoder.psi.state_dict()
    return found


def tied_tensors(model: "VLV") -> dict[Place, dict[str, str]]:
    """Second names of tensors, and the names under which those are stored."""
    return {place: tied_names(network) for place, network in networks(model).items()}


def networks(model: "VLV") -> dict[Place, nn.Module]:
    """The libraries' networks of the boxes that are in memory."""
    found: dict[Place, nn.Module] = {}
    if "encoder" in model.loaded:
        found["encoder"] = model.encoder.florence
    if "text_tower" in model.loaded:
        found["text_tower"] = model.text_tower.clip
    if "decoder" in model.loaded:
        found["vae"], found["unet"] = model.decoder.vae, model.decoder.unet
    if "caption_decoder" in model.loaded:
        found["language_model"] = model.caption_decoder.lm
    return found
