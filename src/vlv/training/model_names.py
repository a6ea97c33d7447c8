"""What the fields of a config that name a model mean: one rule for all of them.

A field takes the folder of the component that it asks for, or anything that `VLV.from_pretrained`
opens and that holds this component: an id of the package (`vlv-mini`), a model folder, a checkpoint
in the authors' layout, an id on the Hub. A fine-tune is none of these: the folder of its base lacks
what it learned.
"""

from pathlib import Path

from vlv.checkpoints.hub import EMBEDDED, resolve_base_model
from vlv.checkpoints.opening import load_model
from vlv.checkpoints.parts import (
    CAPTION_DECODER_SETTINGS_FILE,
    ENCODER_SETTINGS_FILE,
    MANIFEST_FILE,
)
from vlv.checkpoints.published import revision_of
from vlv.errors import CheckpointError
from vlv.models.config import Component
from vlv.models.vlv import VLVModel

# How a model that a field names, and that is not there, comes to be.
_MADE_BY = {
    "initial_model": "`vlv assemble` writes an untrained model out of published ones",
    "stage1": "it is the folder `final` of a finished run of stage 1",
}
# The file that every folder of a component holds.
_MARKS: dict[Component, str] = {
    "encoder": ENCODER_SETTINGS_FILE,
    "caption_decoder": CAPTION_DECODER_SETTINGS_FILE,
    "vae": "config.json",
}


def open_model(field: str, name: Path) -> VLVModel:
    """The model that `field` of a config names.

    Raises:
        CheckpointError: there is no such model, or it is damaged; the message names the field.
    """
    try:
        return load_model(str(name))
    except CheckpointError as error:
        hint = _MADE_BY.get(field)
        if hint is None or name.expanduser().exists():
            raise CheckpointError(f"{field}: {error}") from error
        raise CheckpointError(f"{field}: {str(error).rstrip('.')}; {hint}.") from error


def model_folder(name: Path) -> Path:
    """The folder of a model.

    Raises:
        CheckpointError: there is no such model, or it is a fine-tune.
    """
    _, folder = _opened(name)
    return folder


def component_folder(name: Path, component: Component) -> Path:
    """The folder of a component, which `name` is itself or holds.

    Raises:
        CheckpointError: there is no such model, it is a fine-tune, or it lacks the component.
    """
    is_model = str(name) in EMBEDDED or (name / MANIFEST_FILE).is_file()
    if not is_model and (name / _MARKS[component]).is_file():
        return name
    model, folder = _opened(name)
    held = model.manifest.components
    if component not in held:
        raise CheckpointError(f"{name} has no {component}; it holds {', '.join(held)}")
    return folder / component


def language_model_folder(name: Path) -> Path:
    """The folder of a language model: that of a model's caption decoder, or a published one's, by
    folder or id on the Hub.

    Raises:
        CheckpointError: as `component_folder`, or the Hub does not have it.
    """
    if str(name) in EMBEDDED or (name / MANIFEST_FILE).is_file():
        return component_folder(name, "caption_decoder") / "language_model"
    pinned = revision_of("language_model", str(name))
    return resolve_base_model("language_model", str(name), published=pinned)


def _opened(name: Path) -> tuple[VLVModel, Path]:
    """A model and its folder."""
    model = load_model(str(name))
    assert model.folder is not None  # it was opened from one
    if model.opened_from != model.folder:
        raise CheckpointError(
            f"{name} is a fine-tune; merge it first with `vlv finetune --merge`, and name the "
            "result"
        )
    return model, model.folder


def has_decoder(model: VLVModel) -> bool:
    """Whether a model holds a diffusion decoder, whole."""
    return model.can_draw
