"""Which tensors of a model belong to which part of a model folder."""

from torch import Tensor, nn

from vlv.checkpoints.components import tied_names, untied_state
from vlv.checkpoints.parts import PartName
from vlv.models.vlv import VLVModel


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
    found: dict[PartName, nn.Module] = {}
    if "encoder" in model.loaded:
        found["encoder"] = model.encoder.florence
    if "text_tower" in model.loaded:
        found["text_tower"] = model.text_tower.clip
    if "decoder" in model.loaded:
        found["vae"], found["unet"] = model.decoder.vae, model.decoder.unet
    if "caption_decoder" in model.loaded:
        found["language_model"] = model.caption_decoder.lm
    return found
