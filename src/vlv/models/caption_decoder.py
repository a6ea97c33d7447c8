"""The caption decoder: conditioning c -> caption (paper, section 3.2; stage 2).

Knows the MLP psi and a causal language model; knows nothing of images or diffusion.

Shapes: B batch, Q length of c, L caption tokens, d_T width of c, d_LM width of the model.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vlv.errors import ConfigError
from vlv.models.caption_tokens import caption_ids, caption_of, spellings, text_of, token_ids
from vlv.models.exchanged_tokens import next_probabilities
from vlv.models.lm_cache import fresh_cache, take_rows
from vlv.models.numbers import real_number, whole_number
from vlv.models.outputs import Caption

IGNORED = -100
# Colder is as this, where the likeliest token is all but certain: scores that are divided by much
# less overflow, or outweigh what marks the beams that do not count.
COLDEST = 1e-6


class CaptionDecoder(nn.Module):
    """psi and a causal language model: e = psi(c) stands in front of the caption's tokens."""

    def __init__(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, width: int) -> None:
        super().__init__()
        lm_width = lm.get_input_embeddings().embedding_dim
        self.lm = lm
        self.tokenizer = tokenizer
        self.psi = build_psi(width, lm_width)
        # Published models carry sampling settings here that `generate` would mix into ours.
        self.lm.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=self._pad
        )

    @classmethod
    def from_config(
        cls, config: dict[str, Any], tokenizer: PreTrainedTokenizerFast, width: int
    ) -> "CaptionDecoder":
        """Build with fresh weights for c of the given width; the vocabulary is the tokenizer's."""
        return cls(build_language_model(config, tokenizer), tokenizer, width)

    def forward(
        self, c: Tensor, input_ids: Tensor, lengths: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """Mean over captions of the mean cross-entropy of their tokens, the end token among them.

        c (B,Q,d_T); input_ids (B,L) padded on the right with any id; lengths (B,) counts the
        tokens of each caption, and what lies beyond never enters the loss. kept (B,Q), bool: the
        tokens of c that each caption is read from, as if there were no others.
        """
        return token_losses(self.logits(c, input_ids, kept), input_ids, lengths).mean()

    def logits(self, c: Tensor, input_ids: Tensor, kept: Tensor | None = None) -> Tensor:
        """What is expected at each token after those before it: logits (B,L,V) of all V tokens.
        Arguments as for `forward`.
        """
        e = self.psi(c)
        embedded = self.lm.get_input_embeddings()(input_ids)
        if kept is not None:
            states = self._states_after_kept(e, embedded.to(e.dtype), kept)  # (B,L,d_LM)
            expected: Tensor = self.lm.get_output_embeddings()(states)
            return expected
        inputs = torch.cat([e, embedded.to(e.dtype)], dim=1)
        logits: Tensor = self.lm(
            inputs_embeds=inputs, use_cache=False, logits_to_keep=input_ids.shape[1] + 1
        ).logits[:, :-1]
        return logits

    def _states_after_kept(self, e: Tensor, words: Tensor, kept: Tensor) -> Tensor:
        """What the language model expects each of `words` (B,L,d_LM) from: last hidden states
        (B,L,d_LM) of the positions before them, after the kept ones of e (B,Q,d_LM).

        Each row is packed, its words right behind its own embeddings; a causal model does not see
        the padding at the end of the shorter rows.
        """
        _, queries, width = e.shape
        length, counts = words.shape[1], kept.sum(1, keepdim=True)  # (B,1)
        kept_first = kept.int().argsort(dim=1, descending=True, stable=True)  # (B,Q)
        places = torch.arange(int(counts.max()) + length, device=e.device)
        at_word = queries + (places - counts).clamp(0, length - 1)
        in_order = torch.cat([kept_first, kept_first.new_zeros(len(e), length)], dim=1)
        at_query = in_order[:, : len(places)]
        source = torch.where(places < counts, at_query, at_word).unsqueeze(-1)
        packed = torch.cat([e, words], dim=1).gather(1, source.expand(-1, -1, width))
        states = self.lm.base_model(inputs_embeds=packed, use_cache=False).last_hidden_state
        before = counts - 1 + torch.arange(length, device=e.device)  # (B,L)
        expected: Tensor = states.gather(1, before.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return expected

    def log_probabilities(self, c: Tensor, ids: Sequence[int]) -> Tensor:
        """What is expected at each of L tokens of a caption of c (1,Q,d_T), after those before it:
        log-probabilities (L,V) of all V tokens in float32.
        """
        e = self.psi(c).to(self.lm.dtype)
        words = self.lm.get_input_embeddings()(torch.tensor([list(ids)], device=e.device))
        logits = self.lm(
            inputs_embeds=torch.cat([e, words.to(e.dtype)], dim=1),
            use_cache=False,
            logits_to_keep=len(ids) + 1,
        ).logits[0, :-1]
        return logits.float().log_softmax(-1)

    def next_probabilities(
        self,
        c: Tensor,
        ids: Sequence[int],
        exchanged: Sequence[tuple[int, int]],
        following: Sequence[int],
    ) -> Tensor:
        """Probabilities (N,) that token `following[n]` comes next where the caption `ids` of c
        (1,Q,d_T) has another one at a place: exchanged[n] is (place, token).

        Raises ConfigError for a language model that keeps its states in a cache of its own.
        """
        e = self.psi(c).to(self.lm.dtype)
        return next_probabilities(self.lm, e, ids, exchanged, following)

    def text_loss(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Mean over texts of their mean next-token cross-entropy: pretraining of the model."""
        logits = self.lm(input_ids=input_ids, use_cache=False).logits[:, :-1]
        return token_losses(logits, input_ids[:, 1:], lengths - 1).mean()

    def tokenise(
        self, captions: Sequence[str], max_length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ids (B,L) padded on the right and lengths (B,), the end token appended and counted.

        A caption over max_length tokens is cut and gets no end token: it did not end there.
        """
        return caption_ids(self.tokenizer, captions, max_length)

    @torch.inference_mode()
    def generate(
        self,
        c: Tensor,
        *,
        num_beams: int = 4,
        num_return_sequences: int = 1,
        max_new_tokens: int = 300,
        min_new_tokens: int = 0,
        early_stopping: bool = False,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        forced_start: str = "",
        banned_words: Sequence[str] = (),
    ) -> list[Caption]:
        """Captions for each c (B,Q,d_T), from e (paper's inference: 4 beams, 300 tokens).

        As in transformers, num_return_sequences N > 1 gives N B captions, the N of one c side by
        side: the best N beams with the best first, or N samples. early_stopping ends a search with
        as many finished captions as beams. Sampling uses torch's global generator. All rows hold Q
        embeddings, so none is padded. forced_start: the words that captions begin with.
        banned_words: what does not occur after them, in any case.
        """
        num_beams = whole_number("num_beams", num_beams)
        num_return_sequences = whole_number("num_return_sequences", num_return_sequences)
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        min_new_tokens = whole_number("min_new_tokens", min_new_tokens)
        temperature = real_number("temperature", temperature)
        top_p = real_number("top_p", top_p)
        if num_beams < 1 or num_return_sequences < 1:
            raise ConfigError(
                f"num_beams and num_return_sequences must be at least 1, not {num_beams} and "
                f"{num_return_sequences}."
            )
        if num_return_sequences > num_beams and not (do_sample and num_beams == 1):
            raise ConfigError(
                f"num_return_sequences must be 1 to num_beams ({num_beams}), not "
                f"{num_return_sequences}; give more beams, or one beam and do_sample=True."
            )
        if not 0 <= min_new_tokens <= max_new_tokens or max_new_tokens < 1:
            raise ConfigError(
                "max_new_tokens must be 1 or more and min_new_tokens 0 to that, not "
                f"{max_new_tokens} and {min_new_tokens}."
            )
        if not 0 < top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {top_p}.")
        if not do_sample and (temperature, top_p) != (1.0, 1.0):
            raise ConfigError("temperature and top_p have no effect without do_sample=True.")
        if not 0 <= temperature < math.inf:  # NaN is refused too
            raise ConfigError(f"temperature must be 0 or more, not {temperature}.")
        if temperature <= COLDEST and num_beams > 1:
            do_sample = False  # beams that are drawn among certainties would all be one
        start = token_ids(self.tokenizer, forced_start.strip())
        settings: dict[str, Any] = {
            "temperature": max(temperature, COLDEST),
            "top_p": top_p,
            "top_k": 0,
        }
        config = GenerationConfig(
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            early_stopping=early_stopping and num_beams > 1,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens or None,
            do_sample=do_sample,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self._pad,
            bad_words_ids=spellings(self.tokenizer, banned_words) or None,
            **(settings if do_sample else {}),
        )
        rows = self.write(c, config, start)
        return [self._read(row.tolist(), start) for row in rows]

    def write(
        self, c: Tensor, config: GenerationConfig, start: Sequence[int] = (), **more: Any
    ) -> Any:
        """What the language model's own `generate` gives for each c (B,Q,d_T): rows of the tokens
        that follow those of `start`. `more` goes to it.
        """
        e = self.psi(c).to(self.lm.dtype)
        if start:
            words = self.lm.get_input_embeddings()(torch.tensor([list(start)], device=e.device))
            e = torch.cat([e, words.to(e.dtype).expand(len(e), -1, -1)], dim=1)
        beams, copies = config.num_beams or 1, config.num_return_sequences or 1
        mask = torch.ones(e.shape[:2], dtype=torch.long, device=e.device)
        return self.lm.generate(
            inputs_embeds=e,
            attention_mask=mask,
            generation_config=config,
            past_key_values=self._prefill(e, beams if beams > 1 else copies),
            **more,
        )

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return text_of(self.tokenizer, ids)

    def caption_of(self, ids: Sequence[int], ended: bool, start: Sequence[int] = ()) -> Caption:
        """The caption of the tokens that were written: `ids` holds neither the end token nor
        `start`, the tokens of a forced start.
        """
        return caption_of(self.tokenizer, ids, ended, start)

    def _prefill(self, e: Tensor, copies: int) -> DynamicCache:
        """What the language model keeps of all but the last of e (B,Q,d_LM), computed once for each
        c and then repeated; left to itself, `generate` computes it for every beam.
        """
        cache = fresh_cache(self.lm)
        if e.shape[1] == 1:
            return cache  # there is nothing before the last
        self.lm.base_model(inputs_embeds=e[:, :-1], past_key_values=cache, use_cache=True)
        if copies > 1:
            take_rows(cache, [row for row in range(len(e)) for _ in range(copies)])
        return cache

    def _read(self, ids: list[int], start: list[int]) -> Caption:
        end = self.tokenizer.eos_token_id
        ended = end in ids
        if ended:
            ids = ids[: ids.index(end)]
        return self.caption_of(ids, ended, start)

    @property
    def _pad(self) -> int:
        """What fills finished rows while others go on; many language models have no such token."""
        pad: int | None = self.tokenizer.pad_token_id
        end: int = self.tokenizer.eos_token_id
        return end if pad is None else pad

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the names that stage 2 uses: "psi" and "language_model"."""
        return {
            "psi": list(self.psi.parameters()),
            "language_model": list(self.lm.parameters()),
        }


def build_psi(width: int, lm_width: int) -> nn.Sequential:
    """Psi with fresh weights: c (...,d_T) -> e (...,d_LM)."""
    return nn.Sequential(nn.Linear(width, lm_width), nn.GELU(), nn.Linear(lm_width, lm_width))


def token_losses(logits: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
    """Mean cross-entropy (B,) over the first `lengths` tokens of each row; by length, as pad may
    equal end. A row counts the same in every batch, so that batches can be split among processes.
    """
    lengths = lengths.to(ids.device)
    positions = torch.arange(ids.shape[1], device=ids.device)
    labels = ids.masked_fill(positions >= lengths.unsqueeze(1), IGNORED)
    losses = F.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(1) / lengths


def build_language_model(
    config: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> Qwen2ForCausalLM:
    """A Qwen2 with fresh weights; vocabulary and special ids are the tokenizer's."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            **{
                **config,
                "vocab_size": len(tokenizer),
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": tokenizer.bos_token_id,
            }
        )
    )
