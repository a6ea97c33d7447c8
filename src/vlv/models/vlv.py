"""The boxes of a VLV model, and what flows between them.

    image --> encoder --> z --> text tower --> c --+--> diffusion decoder --> image
                                                   +--> caption decoder   --> caption

`vlv.pipeline.VLV` is the same model with what users need: opening, saving, captions as `vlv
caption` writes them, verification.

Shapes: B batch, Q queries, d width of z and of c.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args

import torch
from PIL import Image
from torch import Tensor, nn

from vlv.errors import CheckpointError, ConfigError
from vlv.models.config import (
    BOXES,
    DECODER_COMPONENTS,
    BoxName,
    CaptionsFrom,
    Component,
    Manifest,
)
from vlv.models.outputs import ImageOutput

if TYPE_CHECKING:
    from vlv.models.caption_decoder import CaptionDecoder
    from vlv.models.conditioning import Conditioning
    from vlv.models.diffusion_decoder import DiffusionDecoder
    from vlv.models.encoder import VLVEncoder
    from vlv.models.ood import OODDetector
    from vlv.models.text_tower import TextTower

Images = Image.Image | Sequence[Image.Image]
Order = Literal["leading", "trailing"]
"""Which embeddings of the second image `VLVModel.compose` keeps: its leading ones, which take the
places after those of the first, as in the paper; or its trailing ones, at their own places."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)
# Reads a box, or the OOD detector, of a model from its folder.
ModelT = TypeVar("ModelT", bound="VLVModel")
Reader = Callable[["VLVModel", Component | BoxName], nn.Module]


class VLVModel:
    """The boxes of one model. A box is read from the folder when it is first used, so captioning
    never loads U-Net or VAE, and reconstruction never loads the language model.

    quantization: "8bit" or "4bit" for the language model, by bitsandbytes. offload: boxes wait in
    the CPU's memory, and only the one that was used last is on the device. Take a box from the
    model each time, after its inputs are made: one that was kept may have been moved away.

    Raises ConfigError for quantization and offload together.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path | None = None,
        read: Reader | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        quantization: Literal["8bit", "4bit"] | None = None,
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
        components = [part for name in given for part in _components_of(name)]
        manifest = Manifest(components=components, provenance=provenance or {})
        manifest.config.captions_from = captions_from
        if decoder is not None:
            manifest.config.decoder_image_size = decoder.image_size
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
        model._boxes = self._boxes
        return model

    # The boxes.

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
        """Move the boxes that are in memory, and load later ones, to a device."""
        self.device = torch.device(device)
        for name in self.loaded:
            if not self.offload or name == self._on_device:
                self._move(name, self.device)
        return self

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
        for component in _components_of(name):
            self.require(component)
        if self._read is None:
            raise CheckpointError(f"The {name} of this model was neither given nor saved.")
        return self._read(self, name)

    def _move(self, name: BoxName | None, device: torch.device) -> None:
        """Move a box that is in memory."""
        assert name is not None
        self._boxes[name].to(device)

    # What flows between them.

    @torch.no_grad()
    def encode(self, images: Images, batch_size: int = 16) -> Tensor:
        """Caption embeddings z (B,Q,d) of one or many images."""
        many = as_list(images)
        chunks = [
            self.encoder(self.encoder.preprocess(many[start : start + batch_size]))  # (b,Q,d)
            for start in range(0, len(many), batch_size)
        ]
        return torch.cat(chunks)

    @torch.no_grad()
    def encode_and_detect(
        self, images: Images, batch_size: int = 16
    ) -> tuple[Tensor, list[bool | None]]:
        """Caption embeddings z (B,Q,d), and whether each image is in distribution; None where the
        model has no OOD detector.
        """
        many, detector = as_list(images), self.ood_detector
        chunks: list[Tensor] = []
        in_distribution: list[bool | None] = []
        for start in range(0, len(many), batch_size):
            encoder = self.encoder
            tokens = encoder.image_tokens(encoder.preprocess(many[start : start + batch_size]))
            chunks.append(encoder.embed(tokens))  # (b,Q,d)
            in_distribution += (
                [None] * len(tokens) if detector is None else detector(tokens).tolist()
            )
        return torch.cat(chunks), in_distribution

    @torch.no_grad()
    def condition(self, z: Tensor) -> "Conditioning":
        """Conditioning c = T(z), its tokens (B,Q,d)."""
        return self.text_tower.forward(z.to(self.device, self.dtype))

    def read(self, z: Tensor) -> Tensor:
        """What the caption decoder reads (B,Q,d): the tokens of c, or z itself where it was trained
        without T.
        """
        if self.manifest.config.captions_from == "z":
            return z.to(self.device, self.dtype)
        return self.condition(z).tokens

    def caption_from_z(self, z: Tensor, batch_size: int = 16, **generation: Any) -> list[str]:
        """Captions of z (B,Q,d) as the language model writes them; `generation` goes to
        `CaptionDecoder.generate`, whose num_return_sequences N gives N for each, side by side.
        """
        captions: list[str] = []
        for part in z.split(batch_size):
            seen = self.read(part)  # before the caption decoder is used, which may move it in
            captions += [made.text for made in self.caption_decoder.generate(seen, **generation)]
        return captions

    def reconstruct(
        self,
        source: Images | Tensor,
        *,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        guidance_scale: float = 2.0,
        num_inference_steps: int = 50,
        scheduler: str = "ddim",
        batch_size: int = 16,
    ) -> ImageOutput:
        """Draw images, or embeddings z (B,Q,d), again from z.

        One seed an image, or a generator that draws the seeds; neither means torch's global
        generator. The same seed gives the same image in any batch.
        """
        z = source if isinstance(source, Tensor) else self.encode(source, batch_size)
        return self._draw(
            self.condition(z),
            generator,
            seeds,
            batch_size,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            scheduler=scheduler,
        )

    def draw(
        self,
        texts: Sequence[str],
        *,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        guidance_scale: float = 2.0,
        num_inference_steps: int = 50,
        scheduler: str = "ddim",
        batch_size: int = 16,
    ) -> ImageOutput:
        """Draw an image for each text, as the text-to-image model does by itself."""
        with torch.no_grad():
            c = self.text_tower.encode_text(texts)  # (B,L,d)
        return self._draw(
            c,
            generator,
            seeds,
            batch_size,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            scheduler=scheduler,
        )

    def compose(
        self,
        a: Images | Tensor,
        b: Images | Tensor,
        keep_a: int,
        keep_b: int,
        order: Order = "leading",
        **drawing: Any,
    ) -> ImageOutput:
        """Draw z[:keep_a] of a followed by z[:keep_b] of b, pair by pair (paper, figure 6).

        keep_a + keep_b is at most the text tower's positions; order "trailing" keeps the last
        keep_b of b in place of its first; `drawing` is `reconstruct`'s.
        """
        z_a, z_b = (x if isinstance(x, Tensor) else self.encode(x) for x in (a, b))  # (B,Q,d)
        room, held = self.text_tower.positions, min(z_a.shape[1], z_b.shape[1])
        if not (0 <= keep_a <= held and 0 <= keep_b <= held and 0 < keep_a + keep_b <= room):
            raise ConfigError(
                f"Cannot keep {keep_a} and {keep_b} embeddings: each image has {held}, and "
                f"together they must be 1 to {room}."
            )
        if z_a.shape[0] != z_b.shape[0]:
            raise ConfigError(
                f"Got {z_a.shape[0]} and {z_b.shape[0]} images to compose; give as many of each."
            )
        return self.reconstruct(joined(z_a, z_b, keep_a, keep_b, order), **drawing)

    def _draw(
        self,
        c: "Conditioning",
        generator: torch.Generator | None,
        seeds: Sequence[int] | None,
        batch_size: int,
        **drawing: Any,
    ) -> ImageOutput:
        if generator is not None:
            if seeds is not None:
                raise ConfigError("Give seeds or a generator, not both.")
            seeds = torch.randint(
                2**62, (len(c),), generator=generator, device=generator.device
            ).tolist()
        with torch.no_grad():
            uncond = self.text_tower.unconditional(1, c.tokens.shape[1])  # (1,Q,d)
        images: list[Image.Image] = []
        for start in range(0, len(c), batch_size):
            part = slice(start, start + batch_size)
            images += self.decoder.generate(
                c[part], uncond=uncond, seeds=None if seeds is None else seeds[part], **drawing
            )
        return ImageOutput(images)


def joined(z_a: Tensor, z_b: Tensor, keep_a: int, keep_b: int, order: Order = "leading") -> Tensor:
    """(B, N+M, d): z[:N] of a followed by the leading or trailing M of b's z; z_a, z_b (B,Q,d).

    Raises ConfigError for another order.
    """
    if order not in get_args(Order):
        raise ConfigError(f"order is one of {', '.join(get_args(Order))}, not {order!r}")
    first = 0 if order == "leading" else z_b.shape[1] - keep_b
    return torch.cat([z_a[:, :keep_a], z_b[:, first : first + keep_b]], dim=1)


def as_list(images: Images) -> list[Image.Image]:
    """Images as a list that holds some, and nothing else."""
    many = [images] if isinstance(images, Image.Image) else list(images)
    if not many:
        raise ConfigError("There are no images to encode; give at least one.")
    for one in many:
        if not isinstance(one, Image.Image):
            raise ConfigError(
                f"Images are PIL images, as `vlv.load_image(path)` gives them, not "
                f"{type(one).__name__}; embeddings go to `caption_from_z` and `reconstruct`."
            )
    return many


def _components_of(box: BoxName) -> tuple[Component, ...]:
    return DECODER_COMPONENTS if box == "decoder" else (box,)
