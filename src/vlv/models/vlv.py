"""The VLV model: its boxes, and what flows between them.

    image --> encoder --> z --> text tower --> c --+--> diffusion decoder --> image
                                                   +--> caption decoder   --> caption

`vlv.models.boxes` keeps the boxes in memory. `vlv.pipeline.VLV` is the same model with what users
need: opening, saving, captions as `vlv caption` writes them, verification.

Shapes: B images or texts, b those of one batch, S the encoder's image size, V image tokens and D
their width, Q queries, d width of z and of c, L tokens of a text, N and M embeddings that are kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlv.errors import ConfigError
from vlv.models.boxes import ModelBoxes
from vlv.models.conditioning import LatePrompt
from vlv.models.config import CAPTION_START, NUM_INFERENCE_STEPS
from vlv.models.families import FAMILIES, load_family
from vlv.models.numbers import whole_number
from vlv.models.outputs import ImageOutput
from vlv.models.preprocessing import Images, as_list
from vlv.models.seeds import chosen_seeds

if TYPE_CHECKING:
    from vlv.models.caption_decoder import CaptionDecoder
    from vlv.models.conditioning import Conditioning
    from vlv.models.diffusion_decoder import DiffusionDecoder
    from vlv.models.encoder import VLVEncoder
    from vlv.models.text_tower import TextTower

Order = Literal["leading", "trailing"]
"""Which embeddings of the second image `VLVModel.compose` keeps: its leading ones, which take the
places after those of the first, as in the paper; or its trailing ones, at their own places."""


class VLVModel(ModelBoxes):
    """One model: images -> z -> c -> images and captions."""

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

    # What flows between them.

    @torch.no_grad()
    def encode(
        self, images: Images, batch_size: int = 16, num_queries: int | None = None
    ) -> Tensor:
        """Caption embeddings z (B,Q,d) of one or many images; the first num_queries N (B,N,d)."""
        encoder, many = self.encoder, as_list(images)
        check_num_queries(num_queries, encoder.settings.num_queries)
        pixels = (encoder.preprocess(many[part]) for part in _batches(len(many), batch_size))
        tokens = (encoder.image_tokens(one) for one in pixels)  # (b,3,S,S) -> (b,V,D)
        return torch.cat([encoder.embed(one, num_queries) for one in tokens])  # (b,Q,d)

    @torch.no_grad()
    def encode_and_detect(
        self, images: Images, batch_size: int = 16
    ) -> tuple[Tensor, list[bool | None]]:
        """Caption embeddings z (B,Q,d), and whether each image is in distribution; None where the
        model has no OOD detector.
        """
        many = as_list(images)
        z, in_distribution = [], []
        for part in _batches(len(many), batch_size):
            embedded, known = self.embed_and_detect(self.encoder.preprocess(many[part]))
            z.append(embedded)  # (b,Q,d)
            in_distribution += known
        return torch.cat(z), in_distribution

    def embed_and_detect(
        self, pixel_values: Tensor, num_queries: int | None = None
    ) -> tuple[Tensor, list[bool | None]]:
        """`encode_and_detect` of normalised pixels (b,3,S,S), in one pass."""
        check_num_queries(num_queries, self.encoder.settings.num_queries)
        tokens = self.encoder.image_tokens(pixel_values)  # (b,V,D)
        z = self.encoder.embed(tokens, num_queries)  # (b,Q,d)
        detector = self.ood_detector
        return z, [None] * len(z) if detector is None else detector(tokens).tolist()

    @torch.no_grad()
    def condition(self, z: Tensor) -> "Conditioning":
        """Conditioning c = T(z), its tokens (B,Q,d). Raises ConfigError for another shape of z."""
        tower = self.text_tower
        check_embeddings(z, tower.positions, tower.width)
        return tower.forward(z.to(self.device, self.dtype))

    def read(self, z: Tensor) -> Tensor:
        """What the caption decoder reads (B,Q,d): the tokens of c, or z itself where it was trained
        without T. Raises ConfigError for another shape of z.
        """
        if self.manifest.config.captions_from == "z":
            if "encoder" in self.manifest.components:  # a model of captions alone has none
                encoder = self.encoder
                check_embeddings(z, encoder.settings.num_queries, sum(encoder.slots.values()))
            return z.to(self.device, self.dtype)
        return self.condition(z).tokens

    def caption_from_z(
        self, z: Tensor | NDArray[Any], batch_size: int = 16, **generation: Any
    ) -> list[str]:
        """Captions of z (B,Q,d) as the language model writes them; `generation` goes to
        `CaptionDecoder.generate`, whose num_return_sequences N gives N for each, side by side.

        Raises ConfigError for a setting that it does not have, or a wrong value.
        """
        z = _tensor_of(z)
        _check_generation(generation)
        captions: list[str] = []
        for part in _batches(len(z), batch_size):
            seen = self.read(z[part])  # (b,Q,d), before the caption decoder, which may move it in
            captions += [made.text for made in self.caption_decoder.generate(seen, **generation)]
        return captions

    def reconstruct(
        self,
        source: Images | Tensor,
        *,
        num_queries: int | None = None,
        captions: str | Sequence[str] | None = None,
        caption_start: float = CAPTION_START,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        guidance_scale: float = 2.0,
        num_inference_steps: int = NUM_INFERENCE_STEPS,
        scheduler: str | None = None,
        batch_size: int = 16,
    ) -> ImageOutput:
        """Draw images, or embeddings z (B,Q,d), again from z, or from its first num_queries.

        Captions, one an image, take the place of z in the last steps, after the share
        `caption_start` of the timesteps (0 to 1, as diffusers counts denoising_start): z places
        things, and words say what they are. One seed an image, or a generator that draws the
        seeds; neither means torch's global generator. The same seed gives the same image in any
        batch.

        Raises ConfigError for captions where the family of the decoder does not take them.
        """
        if captions is not None:
            self.check_late_captions()
        if isinstance(source, Tensor):
            z = first_queries(source, num_queries)
        else:
            z = self.encode(source, batch_size, num_queries)  # (B,Q,d)
        late = None
        if captions is not None:
            late = self._late_prompt(captions, caption_start, len(z))
        return self._draw(
            self.condition(z),
            chosen_seeds(len(z), generator, seeds),
            batch_size,
            late,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            scheduler=scheduler,
        )

    def draw(
        self,
        texts: str | Sequence[str],
        *,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        guidance_scale: float = 2.0,
        num_inference_steps: int = NUM_INFERENCE_STEPS,
        scheduler: str | None = None,
        batch_size: int = 16,
    ) -> ImageOutput:
        """Draw an image for one text or for each, as the text-to-image model does by itself."""
        many = [texts] if isinstance(texts, str) else list(texts)
        if not many:
            raise ConfigError("There are no texts to draw; give at least one.")
        with torch.no_grad():
            c = self.text_tower.encode_text(many)  # (B,L,d)
        return self._draw(
            c,
            chosen_seeds(len(c), generator, seeds),
            batch_size,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            scheduler=scheduler,
        )

    def check_late_captions(self) -> None:
        """Raise ConfigError where pictures cannot be drawn from z and a caption together."""
        family = load_family(self.manifest.config.family)
        if not family.takes_late_prompts:
            raise ConfigError(
                f"pictures of the family {family.name} cannot change their prompt between steps, "
                "as z and a caption together need; draw from one of them: --via embeddings or "
                "--via caption, and in Python `reconstruct` without captions, or `draw`"
            )

    @torch.no_grad()
    def _late_prompt(self, captions: str | Sequence[str], start: float, images: int) -> LatePrompt:
        """What the last steps of drawing are given in place of z; see `reconstruct`."""
        texts = [captions] if isinstance(captions, str) else list(captions)
        if len(texts) != images:
            raise ConfigError(f"Got {len(texts)} captions for {images} images; give one for each.")
        tower = self.text_tower
        return LatePrompt(tower.encode_text(texts), tower.unconditional(1), start)

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
        check_kept(z_a, z_b, keep_a, keep_b, self.text_tower.positions)
        return self.reconstruct(joined(z_a, z_b, keep_a, keep_b, order), **drawing)

    def _draw(
        self,
        c: "Conditioning",
        seeds: Sequence[int] | None,
        batch_size: int,
        late: LatePrompt | None = None,
        **drawing: Any,
    ) -> ImageOutput:
        uncond = None
        if FAMILIES[self.manifest.config.family].negative_prompt:
            with torch.no_grad():
                uncond = self.text_tower.unconditional_for(c)  # (1,Q,d)
        images: list[Image.Image] = []
        for part in _batches(len(c), batch_size):
            some = None if seeds is None else seeds[part]
            then = None if late is None else late[part]
            images += self.decoder.generate(
                c[part], uncond=uncond, seeds=some, late=then, **drawing
            )
        return ImageOutput(images)


def check_num_queries(num_queries: int | None, held: int) -> None:
    """Raise ConfigError where so many embeddings of the `held` ones cannot be kept."""
    if num_queries is not None and not 1 <= whole_number("num_queries", num_queries) <= held:
        raise ConfigError(
            f"num_queries must be 1 to {held}, the embeddings that there are of an image, not "
            f"{num_queries}"
        )


def check_embeddings(z: Tensor, positions: int, width: int) -> None:
    """Raise ConfigError for z that is not (B,Q,d), B at least 1, Q up to `positions`, d `width`."""
    if z.ndim == 3 and len(z) and 1 <= z.shape[1] <= positions and z.shape[2] == width:
        return
    raise ConfigError(
        f"Embeddings z have the shape (images, 1 to {positions}, {width}), not {tuple(z.shape)}; "
        "z[None] are those of one image."
    )


def _tensor_of(z: Any) -> Tensor:
    """Embeddings of one image or many; ConfigError for what are none."""
    if isinstance(z, np.ndarray) and np.issubdtype(z.dtype, np.floating):
        z = torch.tensor(z)
    if not isinstance(z, Tensor) or z.ndim == 0:
        raise ConfigError(
            "Embeddings z are a tensor (images, queries, width), as `encode` gives them, not "
            f"{type(z).__name__}."
        )
    return z


def _check_generation(given: Iterable[str]) -> None:
    """Raise ConfigError for a setting that `CaptionDecoder.generate` does not have."""
    from vlv.models.caption_decoder import CaptionDecoder

    parameters = signature(CaptionDecoder.generate).parameters.values()
    known = [one.name for one in parameters if one.kind is Parameter.KEYWORD_ONLY]
    for name in given:
        if name not in known:
            raise ConfigError(
                f"there is no setting {name!r} of `caption_from_z`; use {', '.join(sorted(known))}"
            )


def first_queries(z: Tensor, num_queries: int | None) -> Tensor:
    """z[:, :N] of z (B,Q,d); all of it without N. Raises ConfigError for N beyond Q or below 1."""
    check_num_queries(num_queries, z.shape[1])
    return z[:, :num_queries]


def joined(z_a: Tensor, z_b: Tensor, keep_a: int, keep_b: int, order: Order = "leading") -> Tensor:
    """(B, N+M, d): z[:N] of a followed by the leading or trailing M of b's z; z_a, z_b (B,Q,d).

    Raises ConfigError for another order.
    """
    if order not in get_args(Order):
        raise ConfigError(f"order is one of {', '.join(get_args(Order))}, not {order!r}")
    first = 0 if order == "leading" else z_b.shape[1] - keep_b
    return torch.cat([z_a[:, :keep_a], z_b[:, first : first + keep_b]], dim=1)


def check_kept(z_a: Tensor, z_b: Tensor, keep_a: int, keep_b: int, room: int) -> None:
    """Raise ConfigError where z_a, z_b (B,Q,d) do not hold so many, or `room` is not enough."""
    held = min(z_a.shape[1], z_b.shape[1])
    if not (0 <= keep_a <= held and 0 <= keep_b <= held and 0 < keep_a + keep_b <= room):
        raise ConfigError(
            f"Cannot keep {keep_a} and {keep_b} embeddings: each image has {held}, and "
            f"together they must be 1 to {room}."
        )
    if z_a.shape[0] != z_b.shape[0]:
        raise ConfigError(
            f"Got {z_a.shape[0]} and {z_b.shape[0]} images to compose; give as many of each."
        )


def _batches(count: int, size: int) -> Iterator[slice]:
    size = whole_number("batch_size", size)
    if size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {size}.")
    for start in range(0, count, size):
        yield slice(start, start + size)
