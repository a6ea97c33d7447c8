"""Stage 2: a language model learns to read the caption embeddings (paper, section 3.2).

Pairs of picture and caption; cross-entropy on the caption and its end token. Where the encoder
trains too, the denoising loss of stage 1 stays on, so that the z that is captioned still
reconstructs the picture, and distillation from captions may be added
(`vlv.training.objectives.distillation`). Some captions may be of texts in place of pictures.

Shapes: B batch, L longest caption of the batch, Q, d length and width of z and c.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.utils.data import default_collate

from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.conditioning import Conditioning
from vlv.models.config import CaptionsFrom
from vlv.training.objectives.denoising import batch_latents, denoising_loss
from vlv.training.objectives.distillation import distillation_loss
from vlv.training.objectives.encoding import EncoderObjective, StageBoxes
from vlv.training.objectives.kept_queries import kept_queries, visible
from vlv.training.objectives.texts import read_texts
from vlv.training.samples.distillation import DistillationDraws
from vlv.training.samples.held_out import HeldOut
from vlv.training.samples.source import Batch


class Stage2Objective(EncoderObjective):
    """Cross-entropy of the caption given e = psi(T(E(x))), plus the weighted denoising loss and the
    weighted loss of distillation.

    captions_from: "z" leaves the text tower out: psi reads z. denoising_weight: 0 leaves the
    denoising loss out, and then distillation_weight has to be 0 too. max_tokens: of a caption in
    validation.
    """

    caption_decoder: CaptionDecoder

    def __init__(
        self,
        boxes: StageBoxes,
        trainable: Sequence[str],
        held_out: HeldOut | None = None,
        *,
        denoising_weight: float,
        distillation_weight: float = 0.0,
        max_tokens: int,
        captions_from: CaptionsFrom = "c",
    ) -> None:
        super().__init__(boxes, trainable, held_out)
        self.captions_from = captions_from
        self.denoises = denoising_weight > 0
        self.distils = distillation_weight > 0
        self._denoising_weight = denoising_weight
        self._distillation_weight = distillation_weight
        self._max_tokens = max_tokens

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.embeddings(batch)
        c = self.text_tower(z)
        kept = kept_queries(batch)
        read = read_texts(self.text_tower, batch, self._read(z, c), kept)
        caption = self.caption_decoder(read[0], *trim(batch), read[1])
        metrics = {"caption_loss": caption.detach()}
        if not self.denoises:
            return caption, metrics
        assert self.decoder is not None  # what denoises has one
        batch = {**batch, "latents": batch_latents(self.decoder, batch)}
        c = visible(c, kept)
        denoising = denoising_loss(self.decoder, batch, c, self.weighting)
        metrics["denoising_loss"] = denoising.detach()
        loss = caption + self._denoising_weight * denoising
        if not self.distils:
            return loss, metrics
        distillation = self._distillation(batch, batch["latents"][:, 0], c)
        metrics["distillation_loss"] = distillation.detach()
        return loss + self._distillation_weight * distillation, metrics

    def _distillation(self, batch: Batch, latents: Tensor, c: Conditioning) -> Tensor:
        assert self.decoder is not None  # what distils has one
        with torch.no_grad():
            caption = self.text_tower.encode_ids(batch["prompt_ids"])
        return distillation_loss(self.decoder, batch, latents, c, caption)

    def _read(self, z: Tensor, c: Conditioning) -> Tensor:
        return z if self.captions_from == "z" else c.tokens

    @property
    def best_by(self) -> Collection[str]:
        own = ["caption_loss", *(["distillation_loss"] if self.distils else [])]
        return [*own, *super().best_by]

    def validate(self) -> dict[str, float]:
        with self.precision():
            metrics = self._caption_metrics()
            return metrics | self.reconstruction_metrics() if self.denoises else metrics

    def _caption_metrics(self) -> dict[str, float]:
        """Means over held-out pictures with a caption, if there are any: of the mean cross-entropy
        of the caption, and of what is distilled.
        """
        totals: dict[str, float] = {}
        count = 0
        for chunk in self.held_out.chunks():
            texts = self.held_out.captions(chunk)
            captioned = [at for at, text in zip(chunk, texts, strict=True) if text]
            if not captioned:
                continue
            rows = [at - chunk.start for at in captioned]
            texts = [texts[row] for row in rows]
            z = self.embeddings({"image": self.held_out.bytes_of(chunk)[rows]})
            c = self.text_tower(z)
            losses = {"caption_loss": self._caption_loss(self._read(z, c), texts)}
            if self.distils:
                losses["distillation_loss"] = self._held_out_distillation(captioned, texts, c)
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0.0) + len(captioned) * float(loss)
            count += len(captioned)
        return {name: total / count for name, total in totals.items()}

    def _caption_loss(self, read: Tensor, texts: list[str]) -> Tensor:
        ids, lengths = self.caption_decoder.tokenise(texts, self._max_tokens)
        loss: Tensor = self.caption_decoder(read, ids.to(self.device), lengths.to(self.device))
        return loss

    def _held_out_distillation(
        self, pictures: list[int], texts: list[str], c: Conditioning
    ) -> Tensor:
        """With draws that belong to the pictures, the same at each validation."""
        assert self.decoder is not None  # what distils has one
        draws = DistillationDraws(self.decoder.latent_shape, 0, self.text_tower.prompt_tokens)
        items = [draws.at(at, text) for at, text in zip(pictures, texts, strict=True)]
        batch = {name: value.to(self.device) for name, value in default_collate(items).items()}
        return self._distillation(batch, self.probe.latents[pictures].to(self.device), c)


def trim(batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids (B,L) cut to the longest text of the batch, and lengths (B,)."""
    lengths = batch["caption_length"]
    return batch["caption_ids"][:, : int(lengths.max())], lengths
