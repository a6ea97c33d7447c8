"""The four boxes of a model: read from a folder one by one, kept on a device, saved as one folder.

Knows the boxes and the model folder; knows nothing of what flows between the boxes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from vlv.checkpoints.components import save_network
from vlv.checkpoints.manifest import (
    DECODER_COMPONENTS,
    CaptionsFrom,
    Component,
    Manifest,
    new_model_folder,
    write_manifest,
)
from vlv.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from vlv.checkpoints.sizes import Quantization
    from vlv.models.caption_decoder import CaptionDecoder
    from vlv.models.diffusion_decoder import DiffusionDecoder
    from vlv.models.encoder import VLVEncoder
    from vlv.models.ood import OODDetector
    from vlv.models.text_tower import TextTower
    from vlv.verification.verifier import Verifier

_BOXES = ("encoder", "text_tower", "decoder", "caption_decoder")


class Boxes:
    """The boxes of one model. A box is read from the folder when it is first used.

    quantization: "8bit" or "4bit" for the language model alone, by bitsandbytes. offload: the
    boxes wait in the CPU's memory, and only the one that was asked for last is on the device; take
    a box from the model each time, after its inputs are made, as one that was kept may have been
    moved away.

    Raises ConfigError for quantization and offload together.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path | None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        quantization: "Quantization | None" = None,
        offload: bool = False,
    ) -> None:
        if quantization is not None and offload:
            raise ConfigError(
                "a quantized language model stays where it was loaded; choose quantization or "
                "offload"
            )
        self.manifest = manifest
        self.folder = folder
        self.dtype = dtype
        self.device = torch.device(device)
        self.quantization = quantization
        self.offload = offload
        self._held: dict[str, nn.Module] = {}
        self._ood_detector: OODDetector | None = None
        self._verifier: Verifier | None = None
        self._at_work: str | None = None

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
        held: list[Component] = []
        if encoder is not None:
            held.append("encoder")
        if text_tower is not None:
            held.append("text_tower")
        if decoder is not None:
            held.extend(DECODER_COMPONENTS)
        if caption_decoder is not None:
            held.append("caption_decoder")
        manifest = Manifest(components=held, provenance=provenance or {})
        manifest.config.captions_from = captions_from
        if decoder is not None:
            manifest.config.decoder_image_size = decoder.image_size
        boxes: dict[str, nn.Module | None] = {
            "encoder": encoder,
            "text_tower": text_tower,
            "decoder": decoder,
            "caption_decoder": caption_decoder,
        }
        given = {name: box for name, box in boxes.items() if box is not None}
        parameters = [x for box in given.values() for x in box.parameters()]
        model = cls(
            manifest,
            folder=None,
            dtype=next((x.dtype for x in parameters if x.is_floating_point()), torch.float32),
            device=parameters[0].device if parameters else "cpu",
        )
        model._held.update(given)
        return model

    @property
    def provenance(self) -> dict[str, Any]:
        """Seed, data, steps, code version, metrics and licences, as stored in vlv.json."""
        return self.manifest.provenance

    @property
    def encoder(self) -> "VLVEncoder":
        """E: images -> z."""
        encoder: VLVEncoder = self._box("encoder")
        return encoder

    @property
    def text_tower(self) -> "TextTower":
        """T: z or texts -> c."""
        tower: TextTower = self._box("text_tower")
        return tower

    @property
    def decoder(self) -> "DiffusionDecoder":
        """VAE, U-Net and scheduler: c -> images."""
        decoder: DiffusionDecoder = self._box("decoder")
        return decoder

    @property
    def caption_decoder(self) -> "CaptionDecoder":
        """The MLP psi and the language model: c -> captions."""
        caption_decoder: CaptionDecoder = self._box("caption_decoder")
        return caption_decoder

    @property
    def ood_detector(self) -> "OODDetector | None":
        """Which pictures are like those of training; None where the model does not know. It is no
        box: small, and on the CPU whatever the device.
        """
        if self._ood_detector is None and "ood_detector" in self.manifest.components:
            from vlv.models.ood import OODDetector

            self._ood_detector = OODDetector.load(self._component("ood_detector"))
        return self._ood_detector

    @property
    def verifier(self) -> "Verifier | None":
        """What turns evidence against sentences into marks; None where the model has none."""
        if self._verifier is None and "verifier" in self.manifest.components:
            from vlv.verification.verifier import Verifier

            self._verifier = Verifier.load(self._component("verifier"))
        return self._verifier

    @property
    def loaded(self) -> list[str]:
        """Names of the boxes that are in memory now."""
        return [name for name in _BOXES if name in self._held]

    def to(self, device: torch.device | str) -> Self:
        """Move the boxes that are in memory, and load later ones, to a device."""
        self.device = torch.device(device)
        for name in self.loaded:
            if not self.offload or name == self._at_work:
                self._place(name, self.device)
        return self

    def _box(self, name: str) -> Any:
        if self.offload and self._at_work not in (name, None):
            # First, so that the device never holds two.
            self._place(str(self._at_work), torch.device("cpu"))
            self._at_work = None
        if name not in self._held:
            self._held[name] = self._read(name)
            if not self.offload:
                self._place(name, self.device)
        if self.offload and self._at_work is None:
            self._place(name, self.device)
            self._at_work = name
        return self._held[name]

    def _place(self, name: str, device: torch.device) -> None:
        """Move a box that is in memory."""
        self._held[name].to(device)

    def _read(self, name: str) -> nn.Module:
        """A box from the folder, in the CPU's memory unless it is quantized."""
        if name == "encoder":
            from vlv.models.encoder import VLVEncoder

            return VLVEncoder.load(self._component("encoder"), self.dtype)
        if name == "text_tower":
            from vlv.models.text_tower import TextTower

            return TextTower.load(self._component("text_tower"), self.dtype)
        if name == "decoder":
            from vlv.models.diffusion_decoder import DiffusionDecoder

            (folder,) = {self._component(part).parent for part in DECODER_COMPONENTS}
            size = self.manifest.config.decoder_image_size
            return DiffusionDecoder.load(folder, size, self.dtype)
        from vlv.models.caption_decoder import CaptionDecoder

        return CaptionDecoder.load(
            self._component("caption_decoder"), self.dtype, self.quantization, self.device
        )

    def save_pretrained(
        self,
        path: str | Path,
        dtype: torch.dtype | None = None,
        components: Iterable[Component] | None = None,
    ) -> None:
        """Write the model folder at once: it is built beside its place and renamed into it.

        dtype is that of the stored weights (None keeps the model's); components picks parts of
        the model. Raises ConfigError when the place holds something that is no model.
        """
        wanted = list(self.manifest.components if components is None else components)
        for name in wanted:
            self._require(name)
        with new_model_folder(Path(path).absolute()) as building:
            for name in wanted:
                self._write(name, building / name, dtype)
            write_manifest(self.manifest.model_copy(update={"components": wanted}), building)

    def _require(self, name: Component) -> None:
        if name not in self.manifest.components:
            where = f"The model folder {self.folder}" if self.folder else "This model"
            raise CheckpointError(
                f"{where} has no {name}; it holds {', '.join(self.manifest.components)}."
            )

    def _component(self, name: Component) -> Path:
        self._require(name)
        if self.folder is None:
            raise CheckpointError(f"The {name} of this model was neither given nor saved.")
        return self.folder / name

    def _write(self, name: Component, folder: Path, dtype: torch.dtype | None) -> None:
        if name == "encoder":
            self.encoder.save(folder, dtype)
        elif name == "text_tower":
            self.text_tower.save(folder, dtype)
        elif name == "vae":
            save_network(self.decoder.vae, folder, dtype)
        elif name == "unet":
            save_network(self.decoder.unet, folder, dtype)
        elif name == "scheduler":
            self.decoder.scheduler.save_pretrained(folder)
        elif name == "ood_detector":
            assert self.ood_detector is not None  # the manifest has it
            self.ood_detector.save(folder)
        elif name == "verifier":
            assert self.verifier is not None  # the manifest has it
            self.verifier.save(folder)
        else:
            self.caption_decoder.save(folder, dtype)
