"""VLV: the four boxes together, loaded one by one as they are needed, and saved as one folder.

    image -> encoder -> z -> text tower -> c -> decoder   -> image
                                             -> captioner -> caption

Knows the boxes and the model folder; knows nothing of training, files of images or the world.

Shapes: B batch, Q queries, d width of z and of c.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from vlv.errors import CheckpointError, ConfigError
from vlv.models.components import read_settings, save_network
from vlv.models.config import VLVConfig
from vlv.models.hub import MANIFEST_FILE, resolve
from vlv.models.manifest import (
    DECODER_COMPONENTS,
    Component,
    Manifest,
    new_model_folder,
    write_manifest,
)

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

    from vlv.models.caption_decoder import CaptionDecoder
    from vlv.models.diffusion import DiffusionDecoder
    from vlv.models.encoder import VLVEncoder
    from vlv.models.text_tower import TextTower

Images = Image.Image | Sequence[Image.Image]


@dataclass(frozen=True)
class Pictures:
    """Pictures that the diffusion decoder drew, in the order of the inputs."""

    images: list[Image.Image]


class VLV:
    """One model that captions images and draws them again from the same embeddings z.

    Make it with `from_pretrained`, `from_components` or `from_config`. A box is read from the
    folder when it is first used, so captioning never loads U-Net or VAE and reconstruction never
    the language model.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path | None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.manifest = manifest
        self.folder = folder
        self.dtype = dtype
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path = "vlv-mini",
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> "VLV":
        """Open an embedded id, a model folder or a Hub id; weights load on first use.

        dtype None means float32, whatever the files hold. Raises CheckpointError for a model that
        is missing, damaged, or does not fit; errors of a box appear when that box is first used.
        """
        folder = resolve(id_or_path, revision)
        manifest = read_settings(Manifest, folder / MANIFEST_FILE)
        return cls(manifest, folder, dtype or torch.float32, device or "cpu")

    @classmethod
    def from_components(
        cls,
        encoder: str | Path | None = None,
        decoder: str | Path | None = None,
        language_model: str | Path | None = None,
        *,
        revision: Mapping[str, str] | None = None,
        num_queries: int | None = None,
        decoder_image_size: int = 384,
        dtype: torch.dtype | None = None,
    ) -> "VLV":
        """An untrained VLV of published models, by Hub id or local folder.

        encoder: a Florence-2 for transformers' own classes. decoder: a Stable Diffusion 1.x or
        2.x in diffusers' layout. language_model: any causal language model of transformers.
        None: the paper's (`vlv.models.published`). revision: by the names of these arguments.
        num_queries: None is the text tower's positions. Queries, phi and psi are fresh, from
        torch's global generator; their widths follow the parts. The parts' ids, commits and
        licences go into `provenance`.

        Raises CheckpointError for a part that is missing or does not fit.
        """
        from vlv.models.assemble import assemble

        return assemble(
            encoder,
            decoder,
            language_model,
            revision=revision,
            num_queries=num_queries,
            decoder_image_size=decoder_image_size,
            dtype=dtype or torch.float32,
        )

    @classmethod
    def from_config(
        cls,
        config: VLVConfig,
        *,
        encoder_tokenizer: "RobertaTokenizer",
        text_tokenizer: "CLIPTokenizer",
        language_tokenizer: "PreTrainedTokenizerFast",
    ) -> "VLV":
        """Build all boxes with fresh weights from torch's global generator."""
        from vlv.models.caption_decoder import CaptionDecoder
        from vlv.models.diffusion import DiffusionDecoder
        from vlv.models.encoder import VLVEncoder
        from vlv.models.text_tower import TextTower

        tower = TextTower.from_config(config.text_tower, text_tokenizer)
        return cls.from_boxes(
            encoder=VLVEncoder.from_config(config.encoder, encoder_tokenizer, tower.width),
            text_tower=tower,
            decoder=DiffusionDecoder.from_config(
                config.vae, config.unet, config.scheduler, config.decoder_image_size
            ),
            captioner=CaptionDecoder.from_config(
                config.language_model, language_tokenizer, tower.width
            ),
        )

    @classmethod
    def from_boxes(
        cls,
        *,
        encoder: "VLVEncoder | None" = None,
        text_tower: "TextTower | None" = None,
        decoder: "DiffusionDecoder | None" = None,
        captioner: "CaptionDecoder | None" = None,
        provenance: dict[str, Any] | None = None,
    ) -> "VLV":
        """Put boxes together that are in memory; those left out are not part of the model."""
        held: list[Component] = []
        if encoder is not None:
            held.append("encoder")
        if text_tower is not None:
            held.append("text_tower")
        if decoder is not None:
            held.extend(DECODER_COMPONENTS)
        if captioner is not None:
            held.append("caption_decoder")
        manifest = Manifest(components=held, provenance=provenance or {})
        if decoder is not None:
            manifest.config.decoder_image_size = decoder.image_size
        model = cls(manifest, folder=None)
        boxes = {
            "encoder": encoder,
            "text_tower": text_tower,
            "decoder": decoder,
            "captioner": captioner,
        }
        # A cached property takes its value from the instance's dictionary.
        model.__dict__.update({name: box for name, box in boxes.items() if box is not None})
        return model

    @property
    def provenance(self) -> dict[str, Any]:
        """Seed, data, steps, code version, metrics and licences, as stored in vlv.json."""
        return self.manifest.provenance

    @cached_property
    def encoder(self) -> "VLVEncoder":
        """E: images -> z."""
        from vlv.models.encoder import VLVEncoder

        return VLVEncoder.load(self._component("encoder"), self.dtype).to(self.device)

    @cached_property
    def text_tower(self) -> "TextTower":
        """T: z or texts -> c."""
        from vlv.models.text_tower import TextTower

        return TextTower.load(self._component("text_tower"), self.dtype).to(self.device)

    @cached_property
    def decoder(self) -> "DiffusionDecoder":
        """VAE, U-Net and scheduler: c -> images."""
        from vlv.models.diffusion import DiffusionDecoder

        (folder,) = {self._component(name).parent for name in DECODER_COMPONENTS}
        size = self.manifest.config.decoder_image_size
        return DiffusionDecoder.load(folder, size, self.dtype).to(self.device)

    @cached_property
    def captioner(self) -> "CaptionDecoder":
        """The MLP psi and the language model: c -> captions."""
        from vlv.models.caption_decoder import CaptionDecoder

        return CaptionDecoder.load(self._component("caption_decoder"), self.dtype).to(self.device)

    @property
    def loaded(self) -> list[str]:
        """Names of the boxes that are in memory now."""
        return [name for name in _BOXES if name in self.__dict__]

    def to(self, device: torch.device | str) -> "VLV":
        """Move the boxes that are in memory, and load later ones, to a device."""
        self.device = torch.device(device)
        for name in self.loaded:
            self.__dict__[name].to(self.device)
        return self

    @torch.no_grad()
    def encode(self, images: Images, batch_size: int = 16) -> Tensor:
        """Caption embeddings z (B,Q,d) of one or many images."""
        many = [images] if isinstance(images, Image.Image) else list(images)
        if not many:
            raise ConfigError("There are no images to encode; give at least one.")
        chunks = [
            self.encoder(self.encoder.preprocess(many[start : start + batch_size]))
            for start in range(0, len(many), batch_size)
        ]
        return torch.cat(chunks)

    @torch.no_grad()
    def condition(self, z: Tensor) -> Tensor:
        """Conditioning c (B,Q,d) = T(z)."""
        return self.text_tower(z.to(self.device, self.dtype))

    def caption(self, images: Images, batch_size: int = 16, **generation: Any) -> list[str]:
        """One caption for each image; `generation` goes to `CaptionDecoder.generate`."""
        return self.caption_from_z(self.encode(images, batch_size), batch_size, **generation)

    def caption_from_z(self, z: Tensor, batch_size: int = 16, **generation: Any) -> list[str]:
        """One caption for each z of (B,Q,d)."""
        return [
            made.text
            for part in z.split(batch_size)
            for made in self.captioner.generate(self.condition(part), **generation)
        ]

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
    ) -> Pictures:
        """Draw images, or embeddings z (B,Q,d), again through z alone.

        One seed a picture, or a generator that draws the seeds; neither means torch's global
        generator. The same seed gives the same picture in any batch.
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
    ) -> Pictures:
        """Draw a picture for each text, as the text-to-image model does by itself."""
        with torch.no_grad():
            c = self.text_tower.encode_text(texts)
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
        **drawing: Any,
    ) -> Pictures:
        """Draw z[:keep_a] of a followed by z[:keep_b] of b, pair by pair (paper, figure 6).

        keep_a + keep_b is at most the text tower's positions; `drawing` is `reconstruct`'s.
        """
        z_a, z_b = (x if isinstance(x, Tensor) else self.encode(x) for x in (a, b))
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
        return self.reconstruct(torch.cat([z_a[:, :keep_a], z_b[:, :keep_b]], dim=1), **drawing)

    def save_pretrained(
        self,
        path: str | Path,
        dtype: torch.dtype | None = None,
        components: Iterable[Component] | None = None,
    ) -> None:
        """Write the model folder at once: it is built beside its place and renamed into it.

        dtype is that of the stored weights (None keeps the model's); components picks parts of
        the model. Raises CheckpointError when the place holds something that is no model.
        """
        wanted = list(self.manifest.components if components is None else components)
        for name in wanted:
            self._require(name)
        with new_model_folder(Path(path).absolute()) as building:
            for name in wanted:
                self._write(name, building / name, dtype)
            write_manifest(self.manifest.model_copy(update={"components": wanted}), building)

    def _draw(
        self,
        c: Tensor,
        generator: torch.Generator | None,
        seeds: Sequence[int] | None,
        batch_size: int,
        **drawing: Any,
    ) -> Pictures:
        if generator is not None:
            if seeds is not None:
                raise ConfigError("Give seeds or a generator, not both.")
            seeds = torch.randint(
                2**62, (c.shape[0],), generator=generator, device=generator.device
            ).tolist()
        with torch.no_grad():
            uncond = self.text_tower.unconditional(1, c.shape[1])
        images: list[Image.Image] = []
        for start in range(0, c.shape[0], batch_size):
            part = slice(start, start + batch_size)
            images += self.decoder.generate(
                c[part], uncond=uncond, seeds=None if seeds is None else seeds[part], **drawing
            )
        return Pictures(images)

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
        else:
            self.captioner.save(folder, dtype)


_BOXES = ("encoder", "text_tower", "decoder", "captioner")
