"""Model folders opened as models, and models written as folders."""

import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from vlv.checkpoints.adapters import adapter_record, apply_adapter, check_base
from vlv.checkpoints.boxes import (
    load_caption_decoder,
    load_encoder,
    load_ood_detector,
    load_text_tower,
    networks,
    save_caption_decoder,
    save_encoder,
    save_ood_detector,
    save_text_tower,
)
from vlv.checkpoints.components import save_network
from vlv.checkpoints.hub import USUAL_DOWNLOAD, DownloadOptions, resolve
from vlv.checkpoints.inspection import inspect_adapter, inspect_model
from vlv.checkpoints.manifest import (
    captions_by_itself,
    component_folder,
    copy_generation_settings,
    new_model_folder,
    read_manifest,
    shared_model_folder,
    write_manifest,
)
from vlv.checkpoints.model_card import write_card
from vlv.checkpoints.parts import MANIFEST_FILE, PARTS, BitsAndBytes, Quantization
from vlv.checkpoints.weights import default_device
from vlv.errors import CheckpointError, ConfigError
from vlv.models.boxes import Reader
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import AdapterRecord, BoxName, Component
from vlv.models.encoder import VLVEncoder
from vlv.models.int8 import use_int8
from vlv.models.precision import computes_int8
from vlv.models.vlv import VLVModel


def load_model(
    id_or_path: str | Path = "vlv-mini",
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    base_models: Mapping[str, str | Path] | None = None,
    quantization: Quantization | None = None,
    offload: bool = False,
    download: DownloadOptions = USUAL_DOWNLOAD,
) -> VLVModel:
    """Open an embedded id, a model folder or a Hub id; weights load on first use.

    dtype None means float32, whatever the files hold; device None means the CPU. A checkpoint in
    the layout of the paper's authors is converted once, into a cache; `base_models` names its base
    models, `encoder`, `decoder` and `language_model`, where they are not the paper's. Raises
    CheckpointError for a model that is missing, damaged, or does not fit; errors of a box appear
    when that box is first used. quantization ("8bit", "4bit", or "int8" on CPUs, of the language
    model) and offload lower the memory that is needed (`VLVModel`).

    Raises ConfigError for int8 where it cannot be computed.
    """
    if quantization == "int8" and not computes_int8(torch.device(device or default_device())):
        raise ConfigError(
            "quantization int8 is for CPUs with VNNI instructions; use 8bit or 4bit here, or "
            "--device cpu where the CPU has them"
        )
    folder = opened_from = model_folder(id_or_path, revision, base_models, download)
    manifest = read_manifest(folder)
    read: Reader = _read
    if (record := manifest.adapter) is not None:
        adapter, fine_tuned = folder, manifest
        folder = base_folder(record, adapter, download)
        manifest = read_manifest(folder)
        manifest.provenance |= fine_tuned.provenance
        read = partial(_read_fine_tuned, record, adapter)
    model = VLVModel(
        manifest,
        folder,
        read,
        dtype or torch.float32,
        device or default_device(),
        quantization,
        offload,
    )
    model.opened_from = opened_from
    return model


def model_folder(
    id_or_path: str | Path,
    revision: str | None = None,
    base_models: Mapping[str, str | Path] | None = None,
    download: DownloadOptions = USUAL_DOWNLOAD,
) -> Path:
    """The inspected folder of a model, that of a fine-tune as it is; see `load_model`."""
    folder = resolve(id_or_path, revision, download)
    if not (folder / MANIFEST_FILE).is_file():
        from vlv.checkpoints.authors.cache import converted

        folder = converted(folder, base_models or {}, download)
    elif base_models:
        raise ConfigError(f"{id_or_path} holds its base models itself; leave out `base_models`.")
    if adapter_record(folder) is None:
        inspect_model(folder)
    else:
        inspect_adapter(folder)
    return folder


def base_folder(
    record: AdapterRecord, adapter: Path, download: DownloadOptions = USUAL_DOWNLOAD
) -> Path:
    """The folder of the model that was fine-tuned."""
    try:
        base = model_folder(record.base, record.revision, record.base_models, download)
    except CheckpointError as error:
        raise CheckpointError(
            f"{adapter} is a fine-tune of a model that cannot be opened: {error}"
        ) from error
    if adapter_record(base) is not None:
        raise CheckpointError(
            f"{adapter} is a fine-tune of {base}, which is one itself; merge that first."
        )
    check_base(record, base, adapter)
    return base


def _read_fine_tuned(
    record: AdapterRecord, adapter: Path, model: VLVModel, name: Component | BoxName
) -> nn.Module:
    """`_read` of a fine-tune: its own caption decoder, and its encoder's view of pictures."""
    if name == "caption_decoder" and record.method == "full":
        folder = adapter / "caption_decoder"
        return _in_int8(
            model, load_caption_decoder(folder, model.dtype, model.quantization, model.device)
        )
    box = _read_base(model, name)
    if isinstance(box, VLVEncoder):
        box.settings = box.settings.model_copy(update={"crop_size": record.crop_size})
    elif isinstance(box, CaptionDecoder):
        apply_adapter(box, adapter, quantized=model.quantization in get_args(BitsAndBytes))
    return _in_int8(model, box)


def _in_int8(model: VLVModel, box: nn.Module) -> nn.Module:
    """The box, its language model in int8 if the model asks for it."""
    if isinstance(box, CaptionDecoder) and model.quantization == "int8":
        use_int8(box.lm, keep=box.lm.get_output_embeddings())
    return box


def _read(model: VLVModel, name: Component | BoxName) -> nn.Module:
    """A box or the OOD detector, in the CPU's memory unless it is quantized by bitsandbytes."""
    return _in_int8(model, _read_base(model, name))


def _read_base(model: VLVModel, name: Component | BoxName) -> nn.Module:
    """`_read` before the layers of a language model become int8."""
    assert model.folder is not None  # it was opened from one
    family = model.manifest.config.family
    if name == "decoder":
        from vlv.checkpoints.diffusion import load_diffusion_decoder

        size = model.manifest.config.decoder_image_size
        return load_diffusion_decoder(model.folder, size, model.dtype, family)
    folder = component_folder(name, model.folder)
    if name == "encoder":
        return load_encoder(folder, model.dtype)
    if name == "text_tower":
        entry = model.manifest.config.entry
        return load_text_tower(folder, model.dtype, family, entry)
    if name == "ood_detector":
        return load_ood_detector(folder)
    assert name == "caption_decoder"
    return load_caption_decoder(folder, model.dtype, model.quantization, model.device)


def save_model(
    model: VLVModel,
    path: str | Path,
    dtype: torch.dtype | None = None,
    components: Iterable[Component] | None = None,
    *,
    shared: bool = False,
) -> None:
    """Write the model folder at once: it is built beside its place and renamed into it.

    dtype is that of the stored weights (None keeps the model's); components picks parts of the
    model. shared: the place may hold other things, which stay (`shared_model_folder`).

    Raises ConfigError when the place holds something that is no model, for a language model that
    was opened with quantization, and for a network with adapters of peft.
    """
    wanted = list(model.manifest.components if components is None else components)
    for name in wanted:
        model.require(name)
    if model.quantization is not None and "caption_decoder" in wanted:
        raise ConfigError(
            f"a language model in {model.quantization} cannot be saved, as its weights are packed; "
            "open the model without quantization, or save `components` without caption_decoder"
        )
    _refuse_adapters(model, wanted)
    folder = shared_model_folder if shared else new_model_folder
    with folder(Path(path).absolute()) as building:
        for name in wanted:
            _write(model, name, building / name, dtype)
        manifest = model.manifest.model_copy(update={"components": wanted})
        write_manifest(manifest, building)
        if captions_by_itself(manifest):
            copy_generation_settings(model.folder, building)
            write_card(manifest, building)


def _refuse_adapters(model: VLVModel, wanted: Iterable[Component]) -> None:
    """Raise ConfigError for a network with layers that no config of its library describes."""
    for part, network in networks(model).items():
        layers = (name.rpartition(".")[2] for name, _ in network.named_modules())
        if PARTS[part].component in wanted and "base_layer" in layers:
            raise ConfigError(
                f"the {part} has adapters of peft, such as a LoRA, which a model folder does not "
                "hold; merge them into its weights (of a pipeline of diffusers: fuse_lora, then "
                "unload_lora_weights), or unload them"
            )


def _write(model: VLVModel, name: Component, folder: Path, dtype: torch.dtype | None) -> None:
    if name == "encoder":
        save_encoder(model.encoder, folder, dtype)
    elif name == "text_tower":
        save_text_tower(model.text_tower, folder, dtype)
    elif name == "vae":
        save_network(model.decoder.vae, folder, dtype)
    elif name in ("unet", "transformer"):
        save_network(model.decoder.denoiser, folder, dtype)
    elif name == "scheduler":
        model.decoder.scheduler.save_pretrained(folder)
    elif name == "caption_decoder":
        save_caption_decoder(model.caption_decoder, folder, dtype)
    elif name == "ood_detector":
        assert model.ood_detector is not None  # the manifest has it
        save_ood_detector(model.ood_detector, folder)
    elif model.folder is None:
        raise CheckpointError(f"The {name} of this model was neither given nor saved.")
    else:
        shutil.copytree(model.folder / name, folder)
