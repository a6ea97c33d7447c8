"""CLIP's text encoder, entered at its token embeddings.

The library's forward takes token ids only, so its parts are run here in the library's order:
positions added, causal mask, layers, final layer norm. Padding is not masked, as in Stable
Diffusion.

Shapes: B batch, L positions, d width of the encoder, p width of its projection.
"""

import torch
from torch import Tensor
from transformers import CLIPTextModel
from transformers.masking_utils import create_causal_mask

from vlv.models.conditioning import Slot


def clip_slot(name: str, clip: CLIPTextModel) -> Slot:
    """The sequence of embeddings that a text encoder takes."""
    return Slot(name, int(clip.config.max_position_embeddings), int(clip.config.hidden_size))


def last_states(clip: CLIPTextModel, embedded: Tensor) -> Tensor:
    """States (B,L,d) after the final layer norm, of token embeddings (B,L,d)."""
    hidden, mask = _positioned(clip, embedded)
    hidden = clip.encoder(
        inputs_embeds=hidden, attention_mask=mask, is_causal=True
    ).last_hidden_state
    states: Tensor = clip.final_layer_norm(hidden)
    return states


def penultimate_states(clip: CLIPTextModel, embedded: Tensor) -> Tensor:
    """States (B,L,d) before the last layer, which no norm follows."""
    return _before_last_layer(clip, embedded)[0]


def penultimate_and_last_states(clip: CLIPTextModel, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """What SDXL and SD 3 read: `penultimate_states`, and `last_states`."""
    hidden, mask = _before_last_layer(clip, embedded)
    last = clip.encoder.layers[-1]
    states: Tensor = clip.final_layer_norm(last(hidden, mask, is_causal=True))
    return hidden, states


def _before_last_layer(clip: CLIPTextModel, embedded: Tensor) -> tuple[Tensor, Tensor | None]:
    """States (B,L,d) of all layers but the last, and the causal mask."""
    hidden, mask = _positioned(clip, embedded)
    for layer in clip.encoder.layers[:-1]:
        hidden = layer(hidden, mask, is_causal=True)
    return hidden, mask


def _positioned(clip: CLIPTextModel, embedded: Tensor) -> tuple[Tensor, Tensor | None]:
    """Embeddings with positions, and the causal mask."""
    hidden = clip.embeddings(inputs_embeds=embedded)
    mask = create_causal_mask(
        config=clip.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
    )
    return hidden, mask


def pooled_state(clip: CLIPTextModel, states: Tensor, ids: Tensor | None) -> Tensor:
    """The state (B,d) at the end token of ids (B,L), as the library finds it.

    Without ids, which z has none of, that of the last position: with causal attention it is the
    one that sees all embeddings.
    """
    if ids is None:
        return states[:, -1]
    end = clip.eos_token_id
    # Older configs name an end token that CLIP never had; there the library takes the largest id.
    places = (ids if end == 2 else (ids == end).int()).argmax(dim=-1)
    return states[torch.arange(len(states), device=states.device), places]


def token_embeddings(clip: CLIPTextModel, ids: Tensor) -> Tensor:
    """Embeddings (B,L,d) of token ids (B,L), before positions are added."""
    embedded: Tensor = clip.embeddings.token_embedding(ids)
    return embedded
