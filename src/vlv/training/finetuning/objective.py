"""The objective of a fine-tune: cross-entropy of captions, on a LoRA and psi or on all of the
caption decoder.

Shapes: B batch, Q, d length and width of c, S the encoder's side in pixels.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vlv.checkpoints.adapters import (
    LoraSettings,
    add_lora,
    linear_names,
    save_lora,
    save_psi,
    trained_rows,
    word_tables,
)
from vlv.checkpoints.boxes import save_caption_decoder
from vlv.checkpoints.manifest import write_manifest
from vlv.errors import TrainingError
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import Manifest
from vlv.text import printable
from vlv.training.finetuning.conditionings import Reader
from vlv.training.finetuning.config import WORD_PIECES
from vlv.training.finetuning.pictures import CaptionedPicture
from vlv.training.finetuning.samples import Views
from vlv.training.objectives.objective import Objective
from vlv.training.objectives.stage2 import trim
from vlv.training.samples.source import Batch
from vlv.training.trainable_parameters import checkpoint_language_model

logger = logging.getLogger(__name__)

# Held-out pictures whose captions are shown at every validation.
_SHOWN = 3
# The loss of held-out captions by which a run that gets worse has gone wrong, beyond the base's.
_DIVERGED = 1.0


class FinetuneObjective(Objective):
    """Trains a caption decoder. reader: encoder and text tower, where conditionings are not kept.

    word_pieces: tokens whose rows a LoRA trains too. half: whether validation computes in bfloat16.
    show: receives a line for each held-out picture that is captioned.
    """

    def __init__(
        self,
        caption_decoder: CaptionDecoder,
        manifest: Manifest,
        *,
        lora_rank: int | None,
        max_tokens: int,
        batch_size: int,
        word_pieces: Sequence[int] = (),
        half: bool = False,
        reader: Reader | None = None,
        held_out: Sequence[CaptionedPicture] = (),
        views: Views | None = None,
        show: Callable[[str], None] = logger.info,
    ) -> None:
        super().__init__()
        self.caption_decoder = caption_decoder
        self.reader = reader
        self.before: float | None = None
        """The loss of held-out captions under the base."""
        self._manifest = manifest
        self._half = half
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self.held_out = held_out
        """Pictures to validate on."""
        self._views = views
        self._show = show
        self._lora: LoraSettings | None = None
        self._shown: list[str] = []
        caption_decoder.psi.float().requires_grad_(True)
        if lora_rank is None:
            caption_decoder.lm.requires_grad_(True)
            return
        assert manifest.adapter is not None  # it is made for a fine-tune
        self._lora = LoraSettings(
            r=lora_rank,
            lora_alpha=2 * lora_rank,
            target_modules=linear_names(caption_decoder.lm),
            base_model_name_or_path=manifest.adapter.base,
            trainable_token_indices={
                name: list(word_pieces) for name in word_tables(caption_decoder.lm)
            }
            if word_pieces
            else None,
        )
        add_lora(caption_decoder.lm, self._lora)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Psi, the language model and, within it, rows of word pieces: their learning rates
        differ.
        """
        return {**self.caption_decoder.parts(), WORD_PIECES: trained_rows(self.caption_decoder.lm)}

    def checkpoint_gradients(self) -> None:
        """Compute activations again in the backward pass instead of keeping them."""
        checkpoint_language_model(self.caption_decoder)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.caption_decoder(self._read(batch), *trim(batch))
        return loss, {}

    def _read(self, batch: Batch) -> Tensor:
        """What the caption decoder reads (B,Q,d)."""
        if "c" in batch:
            return batch["c"]
        assert self.reader is not None  # pixels are given where there is one
        read: Tensor = self.reader(batch["pixels"])
        return read

    def validate(self) -> dict[str, float]:
        if not self.held_out:
            return {}
        loss = self.held_out_loss()
        if self.before is not None and loss > self.before + _DIVERGED:
            raise TrainingError(
                f"captions of held-out pictures get worse (a loss of {loss:.2f}, and "
                f"{self.before:.2f} before training); lower --learning-rate and name another --out"
            )
        lines = self.captions()
        if lines != self._shown:
            for line in [f"held-out pictures now (loss {loss:.3f} a token):", *lines]:
                self._show(line)
        self._shown = lines
        return {"caption_loss": loss}

    @property
    def best_by(self) -> Collection[str]:
        return ["caption_loss"]

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """`caption_loss` of the held-out pictures."""
        return self.caption_loss(self.held_out)

    def caption_loss(self, pictures: Sequence[CaptionedPicture]) -> float:
        """Mean over pictures of the loss of their first captions, for a token.

        Computed as in training: without gradients, bitsandbytes packs matrices of 4 bits for CPUs,
        which not all sizes allow.
        """
        total = 0.0
        for start in range(0, len(pictures), self._batch_size):
            some = pictures[start : start + self._batch_size]
            ids, lengths = self.caption_decoder.tokenise(
                [one.captions[0] for one in some], self._max_tokens
            )
            with self._precision():
                loss = self.caption_decoder(
                    self._seen(some), ids.to(self.device), lengths.to(self.device)
                )
            total += len(some) * loss.item()
        return total / len(pictures)

    def captions(self) -> list[str]:
        """Captions of some held-out pictures, each after the picture's name."""
        some = self.held_out[:_SHOWN]
        with self._precision():
            made = self.caption_decoder.generate(
                self._seen(some), num_beams=1, max_new_tokens=self._max_tokens
            )
        return [
            f"{printable(one.name)}: {printable(caption.text)}"
            for one, caption in zip(some, made, strict=True)
        ]

    def _seen(self, some: Sequence[CaptionedPicture]) -> Tensor:
        assert self._views is not None  # held-out pictures have some
        batch = [self._views.of(one) for one in some]
        return self._read(
            {name: torch.stack([one[name] for one in batch]).to(self.device) for name in batch[0]}
        )

    def _precision(self) -> torch.autocast:
        """As the loop computes: the language model may be of another type than psi."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half)

    def export(self, folder: Path) -> None:
        if self._lora is not None:
            save_lora(self.caption_decoder.lm, self._lora, folder)
            save_psi(self.caption_decoder.psi, folder)
        else:
            save_caption_decoder(self.caption_decoder, folder / "caption_decoder")
        write_manifest(self._manifest, folder)
