"""A fine-tune written as an ordinary model folder, which needs neither its base nor peft."""

import shutil
from pathlib import Path

import torch

from vlv.checkpoints.adapters import adapter_record
from vlv.checkpoints.boxes import save_caption_decoder, save_encoder_settings
from vlv.checkpoints.manifest import (
    component_folder,
    copy_generation_settings,
    new_model_folder,
    write_manifest,
)
from vlv.checkpoints.opening import load_model
from vlv.errors import ConfigError
from vlv.text import printable


def merge(adapter: Path, out: Path) -> None:
    """Write the fine-tune in `adapter` with its base as the model folder `out`.

    The caption decoder is written in float32, so that captions stay as they are; what was not
    trained is copied as it is stored.

    Raises:
        ConfigError: `adapter` is no fine-tune, or `out` holds something that is no model.
        CheckpointError: one of the two cannot be opened.
    """
    if not adapter.is_dir() or adapter_record(adapter) is None:
        raise ConfigError(
            f"{printable(adapter)} is no folder of a fine-tune; name one that `vlv finetune` wrote"
        )
    if out.exists() and out.resolve() == adapter.resolve():
        raise ConfigError("the merged model needs a folder of its own; name another --out")
    model = load_model(adapter, dtype=torch.float32)
    base = model.folder
    assert base is not None  # it was opened from one
    with new_model_folder(out.absolute()) as building:
        for name in model.manifest.components:
            if name == "caption_decoder":
                save_caption_decoder(model.caption_decoder, building / name)
            else:
                shutil.copytree(component_folder(name, base), building / name)
        save_encoder_settings(model.encoder, building / "encoder")
        write_manifest(model.manifest, building)
        copy_generation_settings(base, building)
