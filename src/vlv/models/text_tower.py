"""The text tower T: caption embeddings or texts -> conditioning c (paper, section 3.1, step 5).

Knows text encoders and their tokenizers; knows nothing of images, diffusion or captions. A family
(`vlv.models.families`) has a tower of its own; here is what all of them share.

Shapes: B batch, Q embeddings (at most the positions of the tower), L token ids, d width of z, which
is the sum of the widths of the slots.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vlv.models.conditioning import Conditioning, Slot
from vlv.models.config import Entry, FamilyName, TextEncoderName
from vlv.models.tokenizers import PromptTokens

# Token embeddings that tell the scale of a table.
_SAMPLED = 4096


class TextTower(nn.Module, ABC):
    """The text encoders of a text-to-image model, entered at their token embeddings.

    z stands in place of the token embeddings of every slot at once: its features are those of the
    slots side by side, so that position i of z is position i in each of them. Token ids of a text
    are those of the slots one after another, each of its own length.
    """

    family_name: FamilyName
    entry: Entry = "embeddings"
    # Whether c says which of its tokens are valid.
    masks_tokens = False

    @property
    @abstractmethod
    def slots(self) -> tuple[Slot, ...]:
        """What z consists of, in order."""

    @property
    @abstractmethod
    def encoders(self) -> Mapping[TextEncoderName, PreTrainedModel]:
        """The text encoders by their names in `vlv.checkpoints.parts`."""

    @property
    @abstractmethod
    def tokenizers(self) -> Mapping[TextEncoderName, PreTrainedTokenizerFast]:
        """The tokenizers by the names of their encoders, a slot each in the order of `slots`."""

    @property
    @abstractmethod
    def conditioning_width(self) -> int:
        """Width of the tokens of c, which the caption decoder reads."""

    @property
    def pooled_width(self) -> int:
        """Width of the pooled vector of c; 0 where the family has none."""
        return 0

    @abstractmethod
    def forward(self, z: Tensor) -> Conditioning:
        """Conditioning c = T(z) of z (B,Q,d) in place of token embeddings."""

    @abstractmethod
    def encode_ids(self, ids: Tensor) -> Conditioning:
        """Conditioning c of token ids (B,L), as the library's pipeline makes it of a text."""

    @property
    def positions(self) -> int:
        """The longest z that T accepts (77 where there is a CLIP)."""
        return min(slot.positions for slot in self.slots)

    @property
    def causal(self) -> bool:
        """Whether the first N tokens of c are those of the first N embeddings of z alone."""
        return True

    @property
    def width(self) -> int:
        """Width d of z."""
        return sum(slot.width for slot in self.slots)

    @property
    def slot_widths(self) -> dict[str, int]:
        """Widths of the slots by name: what phi writes."""
        return {slot.name: slot.width for slot in self.slots}

    def embedding_scales(self) -> dict[str, float]:
        """Root mean squares of what z stands for by slot, for phi to start at. Empty where phi
        starts as in the paper.
        """
        return {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.encoders.values())).device

    def reads_whole(self, text: str) -> bool:
        """Whether each slot has room for the whole text, its special tokens included."""
        return self.prompt_tokens.reads_whole(text)

    def tokenise(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B,L) in the CPU's memory: of each slot, cut or padded to its positions."""
        return self.prompt_tokens(texts)

    @property
    def prompt_tokens(self) -> PromptTokens:
        """What makes token ids of texts."""
        positions = tuple(slot.positions for slot in self.slots)
        return PromptTokens(tuple(self.tokenizers.values()), positions)

    def encode_text(self, texts: Sequence[str]) -> Conditioning:
        """Conditioning c of texts."""
        return self.encode_ids(self.tokenise(texts).to(self.device))

    @property
    def unconditional_is_a_text(self) -> bool:
        """Whether `unconditional` is what `encode_text` gives for an empty text."""
        return True

    def unconditional(self, batch: int, length: int | None = None) -> Conditioning:
        """T("") of `batch` samples with `length` tokens, None for those of a text: what guidance
        steers away from.
        """
        c = self.encode_text([""])
        return (c if length is None else self.cut(c, length)).repeat(batch)

    def unconditional_for(self, c: Conditioning) -> Conditioning:
        """T("") that guidance steers c away from: one sample of the same kind and length."""
        return self.unconditional(1, c.tokens.shape[1])

    def cut(self, c: Conditioning, length: int) -> Conditioning:
        """The c of a text with as many tokens as another, which has `length`."""
        return c.first(length)

    def cut_for(self, text: Conditioning, c: Conditioning) -> Conditioning:
        """The c of a text, of the same kind and length as another c."""
        return self.cut(text, c.tokens.shape[1])

    def of_slots(self, z: Tensor) -> list[Tensor]:
        """Z (B,Q,d) by slot."""
        return list(z.split([slot.width for slot in self.slots], dim=-1))

    def ids_of_slots(self, ids: Tensor) -> list[Tensor]:
        """Token ids (B,L) by slot."""
        return list(ids.split([slot.positions for slot in self.slots], dim=1))


class SeveralEncoders(TextTower):
    """A text tower whose encoders have the names that diffusers gives them, as its modules too."""

    def __init__(
        self,
        encoders: Mapping[TextEncoderName, PreTrainedModel],
        tokenizers: Mapping[TextEncoderName, PreTrainedTokenizerFast],
    ) -> None:
        super().__init__()
        for name, encoder in encoders.items():
            self.add_module(name, encoder)
        self._tokenizers = {name: tokenizers[name] for name in encoders}

    @property
    def encoders(self) -> Mapping[TextEncoderName, PreTrainedModel]:
        """The text encoders by name."""
        return {name: getattr(self, name) for name in self._tokenizers}

    @property
    def tokenizers(self) -> Mapping[TextEncoderName, PreTrainedTokenizerFast]:
        """The tokenizers by the names of their encoders."""
        return self._tokenizers

    @torch.no_grad()
    def embedding_scales(self) -> dict[str, float]:
        """Those of token embeddings as they enter the first layer; none without weights."""
        if self.device.type == "meta":
            return {}
        scales = {}
        for slot, encoder in zip(self.slots, self.encoders.values(), strict=True):
            table: Any = encoder.get_input_embeddings()
            ids = torch.linspace(0, table.num_embeddings - 1, _SAMPLED).round().long()
            scales[slot.name] = float(table(ids.to(encoder.device)).float().square().mean().sqrt())
        return scales


class ConditioningEntry(TextTower):
    """A text tower that z does not pass: z is c itself, as the encoder writes it.

    An ablation of the paper's step 5, which saves the frozen text encoders and the backward pass
    through them. Texts, and T("") for guidance, still come from the tower. The pooled vector is a
    slot of its own, read at the last position.
    """

    entry = "conditioning"

    def __init__(self, inner: TextTower) -> None:
        super().__init__()
        self.inner = inner
        self.family_name = inner.family_name
        self.masks_tokens = inner.masks_tokens

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The tokens of c and, where the family has one, its pooled vector."""
        tokens = Slot("tokens", self.inner.positions, self.conditioning_width)
        if not self.pooled_width:
            return (tokens,)
        return tokens, Slot("pooled", self.inner.positions, self.pooled_width)

    @property
    def encoders(self) -> Mapping[TextEncoderName, PreTrainedModel]:
        """Those of the tower."""
        return self.inner.encoders

    @property
    def tokenizers(self) -> Mapping[TextEncoderName, PreTrainedTokenizerFast]:
        """Those of the tower."""
        return self.inner.tokenizers

    @property
    def prompt_tokens(self) -> PromptTokens:
        """That of the tower, whose slots are other ones."""
        return self.inner.prompt_tokens

    @property
    def conditioning_width(self) -> int:
        """Width of the tokens of c."""
        return self.inner.conditioning_width

    @property
    def pooled_width(self) -> int:
        """Width of the pooled vector of c."""
        return self.inner.pooled_width

    def forward(self, z: Tensor) -> Conditioning:
        """The c of z (B,Q,d): its tokens (B,Q,·), all of them valid, and pooled vector (B,p)."""
        tokens, *pooled = self.of_slots(z)
        mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=z.device)
        return Conditioning(
            tokens,
            pooled[0][:, -1] if pooled else None,
            mask if self.masks_tokens else None,
        )

    def encode_ids(self, ids: Tensor) -> Conditioning:
        """The c of token ids (B,L), by the tower."""
        return self.inner.encode_ids(ids)

    @property
    def unconditional_is_a_text(self) -> bool:
        """As the tower says."""
        return self.inner.unconditional_is_a_text

    def unconditional(self, batch: int, length: int | None = None) -> Conditioning:
        """T("") of `batch` samples: as the tower gives it to texts, or with the `length` tokens of
        a z, and nothing that a z does not write.
        """
        c = self.inner.unconditional(batch)
        return c if length is None else _as_z_writes(c.first(length))

    def unconditional_for(self, c: Conditioning) -> Conditioning:
        """As the tower gives it to the c of a text, which may have more than a z writes."""
        return self.inner.unconditional_for(c) if c.extras else super().unconditional_for(c)

    def cut_for(self, text: Conditioning, c: Conditioning) -> Conditioning:
        """As the tower cuts it for the c of a text, which may have more than a z writes."""
        if c.extras:
            return self.inner.cut_for(text, c)
        return _as_z_writes(super().cut_for(text, c))


def _as_z_writes(c: Conditioning) -> Conditioning:
    """The c of a text with nothing that a z does not write."""
    return replace(c, extras={})
