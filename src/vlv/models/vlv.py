"""VLV: the four boxes together, and what flows between them.

    image -> encoder -> z -> text tower -> c -> decoder   -> image
                                             -> captioner -> caption

Knows the boxes; knows nothing of training, files of images or the world.

Shapes: B batch, Q queries, d width of z and of c.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from vlv.checkpoints.components import read_settings
from vlv.checkpoints.hub import MANIFEST_FILE, resolve
from vlv.checkpoints.inspection import inspect_model
from vlv.checkpoints.manifest import Manifest
from vlv.errors import ConfigError, OutOfDistributionWarning
from vlv.models.boxes import Boxes
from vlv.models.composition import Order, joined
from vlv.models.config import VLVConfig

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

    from vlv.checkpoints.sizes import Quantization
    from vlv.verification.verifier import SentenceSupport

Images = Image.Image | Sequence[Image.Image]


@dataclass(frozen=True)
class Pictures:
    """Pictures that the diffusion decoder drew, in the order of the inputs."""

    images: list[Image.Image]


class VLV(Boxes):
    """One model that captions images and draws them again from the same embeddings z.

    Make it with `from_pretrained`, `from_components` or `from_config`. A box is read from the
    folder when it is first used, so captioning never loads U-Net or VAE and reconstruction never
    the language model.
    """

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path = "vlv-mini",
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        parts: Mapping[str, str | Path] | None = None,
        quantization: "Quantization | None" = None,
        offload: bool = False,
    ) -> "VLV":
        """Open an embedded id, a model folder or a Hub id; weights load on first use.

        dtype None means float32, whatever the files hold. A checkpoint in the layout of the
        paper's authors is converted once, into a cache; `parts` names its base models, `encoder`,
        `decoder` and `language_model`, where they are not the paper's. Raises CheckpointError for
        a model that is missing, damaged, or does not fit; errors of a box appear when that box is
        first used. quantization ("8bit" or "4bit", of the language model) and offload lower the
        memory that is needed (`Boxes`).
        """
        folder = resolve(id_or_path, revision)
        if not (folder / MANIFEST_FILE).is_file():
            from vlv.checkpoints.authors.cache import converted

            folder = converted(folder, parts or {})
        elif parts:
            raise ConfigError(f"{id_or_path} holds its parts itself; leave out `parts`.")
        inspect_model(folder)
        manifest = read_settings(Manifest, folder / MANIFEST_FILE)
        return cls(manifest, folder, dtype or torch.float32, device or "cpu", quantization, offload)

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
        None: the paper's (`vlv.checkpoints.published`). revision: by the names of these arguments.
        num_queries: None is the text tower's positions. Queries, phi and psi are fresh, from
        torch's global generator; their widths follow the parts. The parts' ids, commits and
        licences go into `provenance`.

        Raises CheckpointError for a part that is missing or does not fit.
        """
        from vlv.checkpoints.assemble import assemble

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
        from vlv.models.diffusion_decoder import DiffusionDecoder
        from vlv.models.encoder import VLVEncoder
        from vlv.models.text_tower import TextTower

        tower = TextTower.from_config(config.text_tower, text_tokenizer)
        return cls.from_boxes(
            encoder=VLVEncoder.from_config(config.encoder, encoder_tokenizer, tower.width),
            text_tower=tower,
            decoder=DiffusionDecoder.from_config(
                config.vae, config.unet, config.scheduler, config.decoder_image_size
            ),
            caption_decoder=CaptionDecoder.from_config(
                config.language_model, language_tokenizer, tower.width
            ),
        )

    @torch.no_grad()
    def encode(self, images: Images, batch_size: int = 16) -> Tensor:
        """Caption embeddings z (B,Q,d) of one or many images."""
        many = _listed(images)
        chunks = [
            self.encoder(self.encoder.preprocess(many[start : start + batch_size]))
            for start in range(0, len(many), batch_size)
        ]
        return torch.cat(chunks)

    @torch.no_grad()
    def encode_and_detect(
        self, images: Images, batch_size: int = 16
    ) -> tuple[Tensor, list[bool | None]]:
        """Caption embeddings z (B,Q,d), and whether each image is like those of training; None
        where the model does not know.
        """
        many, known = _listed(images), self.ood_detector
        chunks: list[Tensor] = []
        in_distribution: list[bool | None] = []
        for start in range(0, len(many), batch_size):
            encoder = self.encoder
            tokens = encoder.image_tokens(encoder.preprocess(many[start : start + batch_size]))
            chunks.append(encoder.embed(tokens))
            in_distribution += [None] * len(tokens) if known is None else known(tokens).tolist()
        return torch.cat(chunks), in_distribution

    @torch.no_grad()
    def condition(self, z: Tensor) -> Tensor:
        """Conditioning c (B,Q,d) = T(z)."""
        return self.text_tower(z.to(self.device, self.dtype))

    def read(self, z: Tensor) -> Tensor:
        """What the captioner reads of z: c, or z itself where it learned without the text tower."""
        if self.manifest.config.captions_from == "z":
            return z.to(self.device, self.dtype)
        return self.condition(z)

    def caption(self, images: Images, batch_size: int = 16, **generation: Any) -> list[str]:
        """One caption for each image; `generation` goes to `CaptionDecoder.generate`, whose
        num_return_sequences N gives N for each, side by side.

        Warns once, with an `OutOfDistributionWarning`, of images that are unlike those that the
        model was trained on: their captions cannot be trusted.
        """
        many = _listed(images)
        z, in_distribution = self.encode_and_detect(many, batch_size)
        _warn_of_ood(many, in_distribution)
        return self.caption_from_z(z, batch_size, **generation)

    def caption_from_z(self, z: Tensor, batch_size: int = 16, **generation: Any) -> list[str]:
        """One caption for each z of (B,Q,d); `generation` as in `caption`."""
        captions: list[str] = []
        for part in z.split(batch_size):
            seen = self.read(part)  # before the captioner is taken, which may move it in
            captions += [made.text for made in self.caption_decoder.generate(seen, **generation)]
        return captions

    def verify(
        self,
        image: Image.Image,
        caption: str,
        *,
        z: Tensor | None = None,
        in_distribution: bool | None = None,
        false_alarm_rate: float = 0.05,
    ) -> "list[SentenceSupport]":
        """Whether the picture supports each sentence of a caption, as the decoder sees it.

        The verdict on a picture or a sentence that is unlike those of training is "cannot_judge".
        Of true sentences about `false_alarm_rate` are called unsupported. z (1,Q,d) of the image,
        and whether it is in distribution: where they are known already. Raises CheckpointError for
        a model without a verifier or without a decoder.
        """
        from vlv.verification.marking import mark_caption

        return mark_caption(
            self,
            image,
            caption,
            z=z,
            in_distribution=in_distribution,
            false_alarm_rate=false_alarm_rate,
        )

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
        order: Order = "leading",
        **drawing: Any,
    ) -> Pictures:
        """Draw z[:keep_a] of a followed by z[:keep_b] of b, pair by pair (paper, figure 6).

        keep_a + keep_b is at most the text tower's positions; order "trailing" keeps the last
        keep_b of b in place of its first; `drawing` is `reconstruct`'s.
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
        return self.reconstruct(joined(z_a, z_b, keep_a, keep_b, order), **drawing)

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


def _listed(images: Images) -> list[Image.Image]:
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


def _warn_of_ood(images: Sequence[Image.Image], in_distribution: Sequence[bool | None]) -> None:
    """One warning for a call of `VLV.caption`, with the places of the images in it."""
    places = [at for at, known in enumerate(in_distribution) if known is False]
    if places:
        names = ", ".join(getattr(images[at], "filename", "") or f"image {at}" for at in places)
        warnings.warn(
            f"{len(places)} of {len(images)} images are unlike those that this model was trained "
            f"on ({names}): their captions cannot be trusted",
            OutOfDistributionWarning,
            stacklevel=3,
        )
