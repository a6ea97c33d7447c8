"""Tokenizers of a small world: the real classes with byte-pair merges learnt from its texts.

Knows the layout of CLIP's, Qwen2's and BART's vocabularies; knows nothing of models. Every byte
is in each vocabulary, so that any text can be tokenised. The merges are learnt here because the
library's trainer breaks ties by the order of a hash map, and equal texts must give equal tokens.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, RobertaTokenizer

END_OF_WORD = "</w>"


def train_clip_tokenizer(texts: Iterable[str], vocab_size: int = 1000) -> CLIPTokenizer:
    """CLIP's tokenizer with at most vocab_size tokens: bytes, bytes at a word's end, merges,
    start and end of text.
    """
    specials = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = _alphabet()
    alphabet += [byte + END_OF_WORD for byte in alphabet]
    words = {
        (*word[:-1], word[-1] + END_OF_WORD): count
        for word, count in _words(CLIPTokenizer(), texts).items()
    }
    merges = _learn_merges(words, vocab_size - len(alphabet) - len(specials))
    vocab = _vocabulary([*alphabet, *map("".join, merges), *specials])
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def train_qwen2_tokenizer(texts: Iterable[str], vocab_size: int = 1000) -> Qwen2Tokenizer:
    """Qwen2's tokenizer with at most vocab_size tokens; as in Qwen2, padding is the end token."""
    specials = ["<|endoftext|>"]
    alphabet = _alphabet()
    merges = _learn_merges(
        _words(Qwen2Tokenizer(), texts), vocab_size - len(alphabet) - len(specials)
    )
    vocab = _vocabulary([*alphabet, *map("".join, merges), *specials])
    return Qwen2Tokenizer(vocab=vocab, merges=merges)


def train_florence_tokenizer(texts: Iterable[str], vocab_size: int = 400) -> RobertaTokenizer:
    """Florence-2's tokenizer (BART's class) with at most vocab_size tokens, for the prompt."""
    first, last = ["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"]
    alphabet = _alphabet()
    merges = _learn_merges(
        _words(RobertaTokenizer(), texts), vocab_size - len(alphabet) - len(first) - len(last)
    )
    vocab = _vocabulary([*first, *alphabet, *map("".join, merges), *last])
    return RobertaTokenizer(vocab=vocab, merges=merges)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], positions: int) -> Tensor:
    """Token ids (B,L) in the CPU's memory, cut or padded to L = positions."""
    encoded = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=positions,
        return_tensors="pt",
    )
    ids: Tensor = encoded["input_ids"]
    return ids


@dataclass(frozen=True)
class PromptTokens:
    """Texts -> the token ids of a text tower: of each tokenizer as many as its positions, one after
    another. Holds no network, so that a loader's worker can have it.
    """

    tokenizers: tuple[PreTrainedTokenizerFast, ...]
    positions: tuple[int, ...]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B,L) in the CPU's memory, cut or padded; L is the sum of the positions."""
        both = zip(self.tokenizers, self.positions, strict=True)
        return torch.cat([prompt_ids(one, texts, length) for one, length in both], dim=1)

    def reads_whole(self, text: str) -> bool:
        """Whether the text and its special tokens have room in the positions of each."""
        return all(self.read_whole(text))

    @property
    def room(self) -> tuple[int, ...]:
        """The positions of each that a text may take."""
        return self.positions

    def read_whole(self, text: str) -> list[bool]:
        """The same of each tokenizer."""
        both = zip(self.tokenizers, self.positions, strict=True)
        return [len(one(text, verbose=False)["input_ids"]) <= length for one, length in both]


def _alphabet() -> list[str]:
    """The 256 printable characters by which byte-level BPE writes the bytes."""
    return sorted(ByteLevel.alphabet())


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    """Ids in order; two merges that spell the same token share the first one's id."""
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _words(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> dict[tuple[str, ...], int]:
    """How often each word occurs, split into characters as the tokenizer's first steps do."""
    backend = tokenizer.backend_tokenizer
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        counts.update(tuple(word) for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    return dict(counts)


def _learn_merges(words: dict[tuple[str, ...], int], limit: int) -> list[tuple[str, str]]:
    """At most `limit` byte-pair merges: the most frequent pair first, ties by spelling."""
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, count in words.items():
            merged[_merge(word, best)] += count
        words = dict(merged)
    return merges


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The word with every occurrence of the pair joined, from left to right."""
    parts: list[str] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == pair:
            parts.append(pair[0] + pair[1])
            index += 2
        else:
            parts.append(word[index])
            index += 1
    return tuple(parts)
