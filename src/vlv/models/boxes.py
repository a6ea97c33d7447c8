"""The boxes of a model in memory: read when they are first used, moved, and offloaded.

Knows where boxes are; nothing of what flows between them (`vlv.models.vlv`) or of how a folder is
read (`vlv.checkpoints`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

import torch
from torch import nn

from vlv.errors import CheckpointError, ConfigError
from vlv.models.config import (
    BOXES,
    BoxName,
    CaptionsFrom,
    Component,
    FamilyName,
    Manifest,
    ModelSettings,
)
from vlv.models.families import FAMILIES
from vlv.models.precision import checked_device, use_faster_attention

if TYPE_CHECKING:
    from vlv.models.caption_decoder import CaptionDecoder
    from vlv.models.diffusion_decoder import DiffusionDecoder
    from vlv.models.encoder import VLVEncoder
    from vlv.models.ood import OODDetector
    from vlv.models.text_tower import TextTower

ModuleT = TypeVar("ModuleT", bound=nn.Module)
ModelT = TypeVar("ModelT", bound="ModelBoxes")
Reader = Callable[[Any, Component | BoxName], nn.Module]
"""Reads a box, or the OOD detector, of a model from its folder."""


class ModelBoxes:
    """The boxes of one model. A box is read from the folder when it is first used, so captioning
    never loads U-Net or VAE, and reconstruction never loads the language model.

    quantization: "8bit" or "4bit" for the language model, by bitsandbytes, or "int8" on a CPU.
    offload: boxes wait in the CPU's memory, and only the one that was used last is on the device.
    Take a box from the model each time, after its inputs are made: one that was kept may have been
    moved away.

    Raises ConfigError for quantization and offload together.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path | None = None,
        read: Reader | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        quantization: Literal["8bit", "4bit", "int8"] | None = None,
        offload: bool = False,
    ) -> None:
        if quantization is not None and offload:
            raise ConfigError(
                "a quantized language model stays where it was loaded; choose quantization or "
                "offload"
            )
        self.manifest = manifest
        self.folder = folder
        self.opened_from = folder
        """The folder that was named: that of a fine-tune, where `folder` is of its base."""
        self.dtype = dtype
        self.device = torch.device(device)
        self.quantization = quantization
        self.offload = offload
        self._read = read
        self._boxes: dict[BoxName, nn.Module] = {}
        self._extras: dict[Component, nn.Module] = {}
        self._on_device: BoxName | None = None

    @classmethod
    def from_boxes(
        cls,
        *,
        encoder: "VLVEncoder | None" = None,
        text_tower: "TextTower | None" = None,
        decoder: "DiffusionDecoder | None" = None,
        caption_decoder: "CaptionDecoder | None" = None,
        captions_from: CaptionsFrom = "c",
        provenance: dict[str, Any] | None = None,
    ) -> Self:
        """Put boxes together that are in memory, on one device and of one dtype; those left out are
        not part of the model.
        """
        boxes: dict[BoxName, nn.Module | None] = {
            "encoder": encoder,
            "text_tower": text_tower,
            "decoder": decoder,
            "caption_decoder": caption_decoder,
        }
        given = {name: box for name, box in boxes.items() if box is not None}
        settings = ModelSettings(captions_from=captions_from)
        if text_tower is not None:
            settings.family, settings.entry = text_tower.family_name, text_tower.entry
        if decoder is not None:
            settings.family = decoder.family.name
            settings.decoder_image_size = decoder.image_size
        components = [part for name in given for part in _components_of(name, settings.family)]
        manifest = Manifest(config=settings, components=components, provenance=provenance or {})
        parameters = [x for box in given.values() for x in box.parameters()]
        model = cls(
            manifest,
            dtype=next((x.dtype for x in parameters if x.is_floating_point()), torch.float32),
            device=parameters[0].device if parameters else "cpu",
        )
        model._boxes.update(given)
        return model

    def as_kind(self, kind: "type[ModelT]") -> "ModelT":
        """The same model, with the same boxes in memory, as an object of a subclass."""
        model = kind(
            self.manifest,
            self.folder,
            self._read,
            self.dtype,
            self.device,
            self.quantization,
            self.offload,
        )
        model._boxes, model._extras, model._on_device = self._boxes, self._extras, self._on_device
        model.opened_from = self.opened_from
        return model

    @property
    def ood_detector(self) -> "OODDetector | None":
        """Detects images that are unlike those of training; None where the model has none. It is
        small, and on the CPU whatever the device.
        """
        if "ood_detector" not in self.manifest.components:
            return None
        detector: OODDetector = self.extra("ood_detector", None)
        return detector

    def extra(self, name: Component, load: Callable[[Path], ModuleT] | None) -> Any:
        """A component that is no box, kept in memory after its first use; `load` reads it from the
        model folder (None: the model's own reader).
        """
        if name not in self._extras:
            self.require(name)
            if load is None and self._read is not None:
                self._extras[name] = self._read(self, name)
            elif load is not None and self.folder is not None:
                self._extras[name] = load(self.folder / name)
            else:
                raise CheckpointError(f"The {name} of this model was neither given nor saved.")
        return self._extras[name]

    @property
    def provenance(self) -> dict[str, Any]:
        """Seed, data, steps, code version, metrics and licences, as stored in vlv.json."""
        return self.manifest.provenance

    @property
    def loaded(self) -> list[BoxName]:
        """Names of the boxes that are in memory now."""
        return [name for name in BOXES if name in self._boxes]

    def to(self, device: torch.device | str) -> Self:
        """Move the boxes that are in memory, and load later ones, to a device. Raises ConfigError
        for one that cannot be used here.
        """
        self.device = checked_device(device)
        for name in self.loaded:
            if not self.offload or name == self._on_device:
                self._move(name, self.device)
        return self

    @property
    def can_draw(self) -> bool:
        """Whether the model holds a diffusion decoder, whole."""
        needed = FAMILIES[self.manifest.config.family].components
        return set(needed) <= set(self.manifest.components)

    def require(self, name: Component) -> None:
        """Raise CheckpointError for a component that the model does not have."""
        if name not in self.manifest.components:
            where = f"The model folder {self.folder}" if self.folder else "This model"
            raise CheckpointError(
                f"{where} has no {name}; it holds {', '.join(self.manifest.components)}."
            )

    def _box(self, name: BoxName) -> Any:
        if self.offload and self._on_device not in (name, None):
            # First, so that the device never holds two.
            self._move(self._on_device, torch.device("cpu"))
            self._on_device = None
        if name not in self._boxes:
            self._boxes[name] = self._read_box(name)
            if not self.offload:
                self._move(name, self.device)
        if self.offload and self._on_device is None:
            self._move(name, self.device)
            self._on_device = name
        return self._boxes[name]

    def _read_box(self, name: BoxName) -> nn.Module:
        for component in _components_of(name, self.manifest.config.family):
            self.require(component)
        if self._read is None:
            raise CheckpointError(f"The {name} of this model was neither given nor saved.")
        return self._read(self, name)

    def _move(self, name: BoxName | None, device: torch.device) -> None:
        """Move a box that is in memory."""
        assert name is not None
        box = self._boxes[name].to(device)
        if name == "encoder":
            use_faster_attention(cast("VLVEncoder", box).florence, device)


def _components_of(box: BoxName, family: FamilyName) -> tuple[Component, ...]:
    return FAMILIES[family].components if box == "decoder" else (box,)
