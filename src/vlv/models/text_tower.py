"""The text tower T: caption embeddings or texts -> conditioning c (paper, section 3.1, step 5).

Knows CLIP's text encoder and its tokenizer; knows nothing of images, diffusion or captions.

Shapes: B batch, Q embeddings (at most the positions of the tower), L positions (77),
d width of the token embeddings, which is also the width of c.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.masking_utils import create_causal_mask

from vlv.models.conditioning import Conditioning, Slot
from vlv.models.tokenizers import prompt_ids


class TextTower(nn.Module):
    """CLIP's text encoder, entered at its token embeddings.

    The library's forward takes token ids only, so the tower runs its parts in the library's
    order: positions added, causal mask, encoder, final layer norm. Padding is not masked, as in
    Stable Diffusion.
    """

    def __init__(self, clip: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer

    @classmethod
    def from_config(cls, config: dict[str, Any], tokenizer: CLIPTokenizer) -> "TextTower":
        """Build with fresh weights; vocabulary and special ids are the tokenizer's."""
        clip_config = CLIPTextConfig(
            **{
                **config,
                "vocab_size": len(tokenizer),
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            }
        )
        return cls(CLIPTextModel(clip_config), tokenizer)

    @property
    def positions(self) -> int:
        """The longest sequence of embeddings that T accepts (77 in Stable Diffusion)."""
        return int(self.clip.config.max_position_embeddings)

    @property
    def width(self) -> int:
        """Width d of z and c."""
        return int(self.clip.config.hidden_size)

    def forward(self, z: Tensor) -> Conditioning:
        """Conditioning c = T(z), tokens (B,Q,d), of z (B,Q,d) in place of token embeddings."""
        hidden = self.clip.embeddings(inputs_embeds=z)
        mask = create_causal_mask(
            config=self.clip.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
        )
        hidden = self.clip.encoder(
            inputs_embeds=hidden, attention_mask=mask, is_causal=True
        ).last_hidden_state
        return Conditioning(self.clip.final_layer_norm(hidden))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What z consists of: one sequence, in place of the token embeddings."""
        return (Slot("clip", self.positions, self.width),)

    def reads_whole(self, text: str) -> bool:
        """Whether the positions are enough for the text, its start and end tokens included."""
        return len(self.tokenizer(text, verbose=False)["input_ids"]) <= self.positions

    def tokenise(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B,L) in the CPU's memory, cut or padded to the tower's positions."""
        return prompt_ids(self.tokenizer, texts, self.positions)

    def token_embeddings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings z (B,L,d) of texts, before positions are added, and their ids (B,L)."""
        ids = self.tokenise(texts).to(self.clip.device)
        return self.clip.embeddings.token_embedding(ids), ids

    def encode_ids(self, ids: Tensor) -> Conditioning:
        """Conditioning c, tokens (B,L,d), of token ids (B,L)."""
        return self.forward(self.clip.embeddings.token_embedding(ids))

    def encode_text(self, texts: Sequence[str]) -> Conditioning:
        """Conditioning c, tokens (B,L,d), of texts."""
        return self.encode_ids(self.tokenise(texts).to(self.clip.device))

    def unconditional(self, batch: int, length: int) -> Conditioning:
        """T("")[:, :length] of `batch` samples: what guidance steers away from."""
        return self.encode_text([""]).first(length).repeat(batch)
