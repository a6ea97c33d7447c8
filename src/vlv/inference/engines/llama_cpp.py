"""llama.cpp in this program: quantized language models, for machines without a large GPU.

It runs the GGUF file that `vlv export gguf` put in a model folder, through the low-level interface
of llama-cpp-python: e goes in as embeddings, and the next tokens are selected here from its logits,
by the rule of the engine of transformers.

Shapes: Q embeddings of a prompt, d_LM the language model's width, n rows, V the vocabulary.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from vlv.checkpoints.components import library_config
from vlv.checkpoints.gguf import llama_cpp
from vlv.checkpoints.memory import free_memory
from vlv.checkpoints.parts import GGUF_FILE
from vlv.checkpoints.prompt_parts import PromptParts
from vlv.errors import ConfigError, EngineError
from vlv.inference.engines.cache_size import CacheSize, check_length
from vlv.inference.engines.engine import CaptionEngine, NewTokens, RequestFailed
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.selection import Row, TokenSelector, write_next
from vlv.models.caption_tokens import start_ids

# Positions of one pass.
_BATCH = 2048
# Captions that are written at once, and positions of each: 77 of e, and a very long caption.
_ROWS, _POSITIONS = 32, 1024
_KINDS = {"float32": 0, "float16": 1}  # ggml's numbers


@dataclass
class _Waiting:
    """A request before its prompt was read."""

    key: int
    e: Tensor
    sampling: Sampling
    written: list[int]


@dataclass
class _Row(Row):
    """A sequence in progress, with its number in llama.cpp's cache."""

    slot: int
    positions: int = 0


class LlamaCppEngine(CaptionEngine):
    """A language model at work in llama.cpp, on the CPU's threads that PyTorch uses."""

    def __init__(self, parts: PromptParts, log: Callable[[str], None] | None = None) -> None:
        """Load the model folder's GGUF file. log: receives a line about memory.

        Raises:
            ConfigError: llama-cpp-python is not installed, or the folder holds no GGUF file.
            EngineError: llama.cpp cannot read the file.
        """
        file = parts.language_model / GGUF_FILE
        if not file.is_file():
            raise ConfigError(
                f"{parts.language_model} holds no {GGUF_FILE}, which llama.cpp needs; write a "
                "model folder with one: vlv export gguf MODEL OUT --quantize q4_k_m"
            )
        self._library = llama_cpp()
        self._parts = parts
        tokenizer = parts.tokenizer
        self._end_token = int(tokenizer.eos_token_id)
        config = library_config(AutoConfig, parts.language_model)
        # Keys and values as exact as the weights: of float32 in a file of float32.
        self._load(str(file), config)
        if log is not None:
            log(
                f"llama.cpp keeps {self.cache.bytes / 1e9:.2f} GB for keys and values, which is "
                f"room for {self.cache.rows} captions at once"
            )
        # The lowest first: rows in a gapless order are computed together.
        self._slots = list(range(self.cache.rows))
        self._waiting: deque[_Waiting] = deque()
        self._rows: list[_Row] = []
        self._ready: list[NewTokens | RequestFailed] = []

    def _load(self, file: str, config: Any) -> None:
        library = self._library
        settings = library.llama_model_default_params()
        self._model = library.llama_model_load_from_file(file.encode(), settings)
        if not self._model:
            raise EngineError(f"llama.cpp cannot read {file}; write it again with vlv export gguf")
        width = library.llama_model_n_embd(self._model)
        self._vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))
        if width != self._parts.width:
            raise EngineError(
                f"{file} takes embeddings of {width} values, and psi makes {self._parts.width}; "
                "write it again with vlv export gguf"
            )
        exact = _is_float32(library, self._model)
        dtype = torch.float32 if exact else torch.float16
        self.cache = CacheSize.of(
            config,
            dtype,
            free_memory(torch.device("cpu")),
            rows=_ROWS,
            each=_POSITIONS,
            longest=_POSITIONS,
        )
        options = library.llama_context_default_params()
        options.n_ctx = self.cache.rows * self.cache.positions
        options.n_batch = _BATCH
        options.n_seq_max = options.n_outputs_max = self.cache.rows
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        # Each row by itself: in one cache for all, every row would look at the cells of all.
        options.kv_unified = False
        options.type_k = options.type_v = _KINDS["float32" if exact else "float16"]
        if exact:
            options.flash_attn_type = 0
        self._context = library.llama_init_from_model(self._model, options)
        if not self._context:
            raise EngineError(f"llama.cpp cannot start with {file}; is there enough memory?")
        self._memory = library.llama_get_memory(self._context)
        self._embeddings = library.llama_batch_init(_BATCH, width, 1)
        self._tokens = library.llama_batch_init(_BATCH, 0, 1)

    @property
    def room(self) -> int:
        """See `CaptionEngine`."""
        waiting = sum(one.sampling.sequences for one in self._waiting)
        return self.cache.rows - len(self._rows) - waiting

    @property
    def positions(self) -> int:
        """See `CaptionEngine`."""
        return self.cache.positions

    def add(self, key: int, e: Tensor, sampling: Sampling, written: Sequence[int] = ()) -> None:
        """See `CaptionEngine`."""
        if sampling.sequences > self.cache.rows:
            raise ConfigError(
                f"llama.cpp writes {self.cache.rows} captions at once, and "
                f"{sampling.sequences} of one image were asked for; ask for fewer"
            )
        start = start_ids(self._parts.tokenizer, sampling.forced_start)
        check_length(len(e) + len(start), sampling, self.cache.positions)
        if len(written) >= sampling.max_new_tokens:
            self._ready += [NewTokens(key, at, (), "length") for at in range(sampling.sequences)]
        else:
            self._waiting.append(_Waiting(key, e, sampling, list(written)))

    def step(self) -> list[NewTokens | RequestFailed]:
        """See `CaptionEngine`."""
        events, self._ready = self._ready, []
        rows = sorted(self._rows, key=lambda row: row.slot)
        while self._waiting and self._fits(self._waiting[0]):
            events += self._begin(self._waiting.popleft())
        if rows:
            logits = self._advance(rows)
            events += self._write(rows, logits)
        return events

    def cancel(self, key: int) -> None:
        """See `CaptionEngine`."""
        self._waiting = deque(one for one in self._waiting if one.key != key)
        self._ready = [one for one in self._ready if one.key != key]
        for row in [one for one in self._rows if one.key == key]:
            self._free(row)

    def close(self) -> None:
        """See `CaptionEngine`."""
        if self._context:
            self._library.llama_batch_free(self._embeddings)
            self._library.llama_batch_free(self._tokens)
            self._library.llama_free(self._context)
            self._library.llama_model_free(self._model)
            self._context = None

    def _fits(self, one: _Waiting) -> bool:
        return len(self._slots) >= one.sampling.sequences

    def _begin(self, one: _Waiting) -> list[NewTokens]:
        """Read a prompt once, and write the first token of each of its sequences."""
        sampling, tokenizer = one.sampling, self._parts.tokenizer
        start = start_ids(tokenizer, sampling.forced_start)
        slots = [heappop(self._slots) for _ in range(sampling.sequences)]
        rows = []
        for number, slot in enumerate(slots):
            selector = TokenSelector(sampling, number, len(one.written), tokenizer)
            rows.append(_Row(one.key, number, selector, one.written.copy(), slot))
        logits = self._read(slots[0], one.e, [*start, *one.written])
        for row in rows:
            row.positions = len(one.e) + len(start) + len(one.written)
            if row.slot != slots[0]:
                self._library.llama_memory_seq_cp(self._memory, slots[0], row.slot, -1, -1)
        self._rows += rows
        return self._write(rows, logits.expand(len(rows), -1).clone())

    def _read(self, slot: int, e: Tensor, ids: list[int]) -> Tensor:
        """Logits (1,V) behind e (Q,d_LM) and tokens, which fill an empty slot."""
        values = e.to("cpu", torch.float32).contiguous()
        for at in range(0, len(values), _BATCH):
            part = values[at : at + _BATCH]
            batch = self._embeddings
            ctypes.memmove(batch.embd, part.data_ptr(), part.nbytes)
            last = at + len(part) == len(values) and not ids
            self._fill(batch, [(slot, at + n, False) for n in range(len(part))], last)
            self._decode(batch)
        for n in range(0, len(ids), _BATCH):
            part_ids = ids[n : n + _BATCH]
            batch = self._tokens
            places = [(slot, len(values) + n + m, False) for m in range(len(part_ids))]
            for m, token in enumerate(part_ids):
                batch.token[m] = token
            self._fill(batch, places, n + len(part_ids) == len(ids))
            self._decode(batch)
        return self._logits(1)

    def _advance(self, rows: list[_Row]) -> Tensor:
        """Logits (n,V) behind the last token of each row."""
        batch = self._tokens
        for at, row in enumerate(rows):
            batch.token[at] = row.ids[-1]
        self._fill(batch, [(row.slot, row.positions, True) for row in rows], False)
        self._decode(batch)
        for row in rows:
            row.positions += 1
        return self._logits(len(rows))

    def _fill(self, batch: Any, places: list[tuple[int, int, bool]], last: bool) -> None:
        """Say of each position its row, its place there, and whether its logits are wanted."""
        batch.n_tokens = len(places)
        for at, (slot, position, wanted) in enumerate(places):
            batch.pos[at], batch.n_seq_id[at], batch.seq_id[at][0] = position, 1, slot
            batch.logits[at] = wanted
        if last:
            batch.logits[len(places) - 1] = True

    def _decode(self, batch: Any) -> None:
        if status := self._library.llama_decode(self._context, batch):
            raise EngineError(f"llama.cpp has stopped: it cannot compute (status {status})")

    def _logits(self, count: int) -> Tensor:
        """Those of the last pass (n,V)."""
        first = self._library.llama_get_logits(self._context)
        size = count * self._vocabulary
        array = ctypes.cast(first, ctypes.POINTER(ctypes.c_float * size)).contents
        return torch.frombuffer(array, dtype=torch.float32).view(count, -1).clone()

    def _write(self, rows: list[_Row], logits: Tensor) -> list[NewTokens]:
        """Select the next token of each row; rows that end leave."""
        # llama.cpp's vocabulary may be longer than the tokenizer's: nothing means those.
        logits[:, len(self._parts.tokenizer) :] = -torch.inf
        events = write_next(rows, logits, self._end_token)
        for row, event in zip(rows, events, strict=True):
            if event.finish:
                self._free(row)
        return events

    def _free(self, row: _Row) -> None:
        self._library.llama_memory_seq_rm(self._memory, row.slot, -1, -1)
        self._rows.remove(row)
        heappush(self._slots, row.slot)


def _is_float32(library: Any, model: Any) -> bool:
    """Whether a file's matrices are of float32."""
    text = ctypes.create_string_buffer(32)
    library.llama_model_meta_val_str(model, b"general.file_type", text, len(text))
    return text.value == b"0"
