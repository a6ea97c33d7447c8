"""How a language model goes on after one token of a caption is exchanged.

Verification asks this for many places and tokens of one caption, so most models read all of them in
one pass. Shapes: Q length of e, N exchanged tokens, d_LM width of the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlv.models.lm_cache import reads_by_position

# Exchanged tokens of a caption that are read at once: the vocabulary at each fills the memory.
AT_ONCE = 128


def next_probabilities(
    lm: PreTrainedModel,
    e: Tensor,
    ids: Sequence[int],
    exchanged: Sequence[tuple[int, int]],
    following: Sequence[int],
) -> Tensor:
    """Probabilities (N,) that token `following[n]` comes next where the caption `ids` behind e
    (1,Q,d_LM) has another one at a place: exchanged[n] is (place, token).

    Raises ConfigError for a language model that keeps its states in a cache of its own.
    """
    states_after = _states_side_by_side if reads_by_position(lm) else _states
    found = [torch.zeros(0, device=e.device)]
    for start in range(0, len(exchanged), AT_ONCE):
        part = exchanged[start : start + AT_ONCE]
        logits = lm.get_output_embeddings()(states_after(lm, e, ids, part)).float()
        after = torch.tensor(following[start : start + len(part)], device=e.device)
        found.append(logits.softmax(-1).gather(1, after[:, None])[:, 0])
    return torch.cat(found)


def _states_side_by_side(
    lm: PreTrainedModel, e: Tensor, ids: Sequence[int], exchanged: Sequence[tuple[int, int]]
) -> Tensor:
    """Last states (N,d_LM) after exchanged tokens, all in one pass over one row: each stands behind
    the caption, at the position of its place, and sees only what is before that place. What comes
    before is computed once.
    """
    places = torch.tensor([at for at, _ in exchanged], device=e.device)
    tokens = torch.tensor([[*ids, *(token for _, token in exchanged)]], device=e.device)
    words = lm.get_input_embeddings()(tokens).to(e.dtype)
    read = e.shape[1] + len(ids)
    positions = torch.cat([torch.arange(read, device=e.device), e.shape[1] + places])
    states: Tensor = lm.base_model(
        inputs_embeds=torch.cat([e, words], dim=1),
        attention_mask=_beside(read, e.shape[1] + places, e.dtype),
        position_ids=positions[None],
        use_cache=False,
    ).last_hidden_state[0, read:]
    return states


def _beside(read: int, places: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention mask (1,1,T,T), added to scores, for a text of `read` tokens and one more behind
    it for each of `places`, which sees the text before its place, and itself.
    """
    columns = torch.arange(read + len(places), device=places.device)
    rows = torch.cat([columns[:read] + 1, places])  # what a row sees begins at 0 and ends here
    seen = (columns[None] < rows[:, None]) | torch.eye(
        len(columns), dtype=torch.bool, device=places.device
    )
    mask = torch.zeros(seen.shape, dtype=dtype, device=places.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[None, None]


def _states(
    lm: PreTrainedModel, e: Tensor, ids: Sequence[int], exchanged: Sequence[tuple[int, int]]
) -> Tensor:
    """As `_states_side_by_side`, a row for each: what has no keys to mask reads all before."""
    longest = max(at for at, _ in exchanged) + 1
    rows = [[*ids[:at], token] + [token] * (longest - at - 1) for at, token in exchanged]
    words = lm.get_input_embeddings()(torch.tensor(rows, device=e.device)).to(e.dtype)
    states: Tensor = lm.base_model(
        inputs_embeds=torch.cat([e.expand(len(rows), -1, -1), words], dim=1), use_cache=False
    ).last_hidden_state
    last = torch.tensor([e.shape[1] + at for at, _ in exchanged], device=e.device)
    return states[torch.arange(len(rows), device=e.device), last]
