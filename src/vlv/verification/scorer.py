"""How well texts explain a picture: denoising errors of the frozen decoder (paper, equation 1).

A text that is true of a picture helps the decoder to denoise it. All texts are scored on the same
noise at the same timesteps: the error itself varies far more than what a single word changes. Knows
the boxes; knows no sentence and no verdict.

Shapes: K texts, S draws of timestep and noise, C,h,w latents, Q,d length and width of c.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image
from torch import Tensor

from vlv.errors import ConfigError
from vlv.models.conditioning import Conditioning, concatenated
from vlv.models.preprocessing import decoder_pixels
from vlv.models.text_tower import TextTower
from vlv.models.vlv import VLVModel
from vlv.sentences import sentence_spans

if TYPE_CHECKING:
    # Captioning needs nothing of diffusers, whose import takes seconds.
    from vlv.models.diffusion_decoder import DiffusionDecoder

# Texts that go through the text tower at once, at least.
_TEXTS = 16
# Rows are taken in blocks, and each block in passes of at least so many, so that a pass is short.
# On a processor they are fewer where latents have more positions.
_BLOCK = 64
_ROWS = 16
_POSITIONS = 8 * 8


@dataclass(frozen=True)
class VerifySettings:
    """How much is computed: `levels` of noise (shares of the trained timesteps), `repeats` draws of
    noise at each, `per_word` alternatives of a word. The time grows with all three.

    against: what a prediction under a text is held against, the noise that was added or what the
    decoder predicts under the picture's own embeddings. per_nat: what a nat counts, as a share of
    the decoder's error, by which the caption decoder finds another word likelier in the place of
    one that the decoder does not heed. 0 asks the decoder alone: where captions may say a thing in
    several ways, a word that is as good as another is not heeded either.
    """

    levels: tuple[float, ...] = (0.3, 0.6, 0.9)
    repeats: int = 2
    per_word: int = 2
    seed: int = 0
    against: Literal["noise", "embeddings"] = "noise"
    per_nat: float = 0.0

    def __post_init__(self) -> None:
        if not self.levels or not all(0 < level <= 1 for level in self.levels):
            raise ConfigError(f"levels of noise are above 0 and at most 1, not {self.levels}")
        if self.repeats < 1 or self.per_word < 0 or self.per_nat < 0:
            raise ConfigError(
                "repeats must be 1 or more and per_word and per_nat 0 or more, not "
                f"{self.repeats}, {self.per_word} and {self.per_nat}"
            )


class DenoisingScorer:
    """Denoising errors of one picture: all texts are scored on the same draws of noise."""

    def __init__(
        self,
        model: VLVModel,
        image: Image.Image,
        settings: VerifySettings,
        *,
        z: Tensor | None = None,
    ) -> None:
        """image: the picture; z (1,Q,d) of it, where it is known already."""
        self._model = model
        self._levels = len(settings.levels)
        decoder = model.decoder
        pixels = torch.from_numpy(decoder_pixels(image, decoder.image_size)).permute(2, 0, 1)
        with torch.no_grad():
            self._latents = decoder.encode_images(
                pixels[None].to(model.device, model.dtype) / 127.5 - 1
            )
        self._draws: Draws = make_draws(
            decoder, self._latents, settings.levels, settings.repeats, settings.seed
        )
        self._noise = target(decoder, self._latents, self._draws)
        self._z = model.encode(image) if z is None else z
        self._wanted = self._noise
        if settings.against == "embeddings":
            self._wanted = self._predicted(model.condition(self._z))[0]

    def errors(self, texts: Sequence[str]) -> Tensor:
        """Errors (K, levels, repeats) of what is predicted under texts that the text tower reads
        whole.
        """
        tower = self._model.text_tower
        parts = torch.arange(len(texts)).tensor_split(max(1, len(texts) // _TEXTS))
        with torch.no_grad():
            c = concatenated([tower.encode_text([texts[at] for at in part]) for part in parts])
        errors = squared_errors(self._predicted(c), self._wanted)
        return errors.unflatten(1, (self._levels, -1)).cpu()

    def own_error(self) -> float:
        """The denoising error under the picture's own embeddings, the mean over levels of its
        logarithm: large where the decoder cannot draw such a picture at all.
        """
        made = self._predicted(self._model.condition(self._z))
        errors = squared_errors(made, self._noise).unflatten(1, (self._levels, -1)).mean(2)
        return float(errors.log().mean())

    def _predicted(self, c: Conditioning) -> Tensor:
        return predictions(self._model.decoder, self._latents, c, self._draws)

    def score(self, captions: Sequence[str]) -> list[float]:
        """How well each caption explains the picture: minus its mean error, larger is better.

        A caption that the text tower cannot read whole is judged part by part.
        """
        tower = self._model.text_tower
        parts = [_readable_parts(tower, caption) for caption in captions]
        errors = iter(self.errors([part for many in parts for part in many]).mean((1, 2)).tolist())
        return [-sum(next(errors) for _ in many) / len(many) for many in parts]


@dataclass(frozen=True)
class Draws:
    """timesteps (S,) and noise (S,C,h,w), in turn for each level of noise: S = levels x repeats."""

    timesteps: Tensor
    noise: Tensor


def make_draws(
    decoder: "DiffusionDecoder",
    latents: Tensor,
    levels: Sequence[float],
    repeats: int,
    seed: int = 0,
) -> Draws:
    """Draws at shares of the trained timesteps (0 no noise, 1 all of it), from a seed.

    latents (1,C,h,w) give shape and device. Noise comes in pairs of opposite signs, whose errors
    vary less in the mean.
    """
    process = decoder.noise_process
    trained = process.steps
    nearest = torch.tensor([min(trained - 1, round(level * trained)) for level in levels])
    steps = process.timesteps((nearest + 0.5) / trained)
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn((len(levels), (repeats + 1) // 2, *latents.shape[1:]), generator=generator)
    noise = torch.stack([half, -half], dim=2).flatten(1, 2)[:, :repeats].flatten(0, 1)
    return Draws(
        steps.repeat_interleave(repeats).to(latents.device),
        noise.to(latents.device, latents.dtype),
    )


@torch.no_grad()
def predictions(
    decoder: "DiffusionDecoder", latents: Tensor, c: Conditioning, draws: Draws
) -> Tensor:
    """What the U-Net predicts under each text: (K,S,C,h,w) for c of K texts."""
    count, many = len(c), len(draws.timesteps)
    noisy = decoder.noise_process.noisy(
        latents.expand_as(draws.noise), draws.noise, draws.timesteps
    )
    made = []
    for pairs in _passes(torch.arange(count * many, device=c.device), noisy):
        text, draw = pairs // many, pairs % many
        made.append(decoder.predict(noisy[draw], draws.timesteps[draw], c[text]).float())
    return torch.cat(made).unflatten(0, (count, many))


def _passes(rows: Tensor, latents: Tensor) -> Iterator[Tensor]:
    """Rows in turn, in passes of about equal length."""
    most = _ROWS
    if latents.device.type == "cpu":
        most = max(1, most * _POSITIONS // max(_POSITIONS, latents.shape[-2] * latents.shape[-1]))
    for block in rows.split(_BLOCK):
        yield from block.tensor_split(max(1, len(block) // most))


def target(decoder: "DiffusionDecoder", latents: Tensor, draws: Draws) -> Tensor:
    """What is to be predicted, (S,C,h,w): for an error that is stage 1's own loss."""
    return decoder.noise_process.target(
        latents.expand_as(draws.noise), draws.noise, draws.timesteps
    ).float()


def squared_errors(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared errors (K,S) of predictions (K,S,C,h,w) against wanted ones (S,C,h,w)."""
    return (made - wanted).square().flatten(2).mean(2)


def _readable_parts(tower: TextTower, caption: str) -> list[str]:
    """Runs of whole sentences that the text tower reads; a longer sentence is a part of its own."""
    parts: list[str] = []
    for span in sentence_spans(caption):
        longer = f"{parts[-1]} {span.of(caption)}" if parts else ""
        if longer and tower.reads_whole(longer):
            parts[-1] = longer
        else:
            parts.append(span.of(caption))
    return parts or [""]
