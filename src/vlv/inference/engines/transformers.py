"""The engine in this process: continuous batching with a language model of transformers.

The continuous batching of transformers takes token ids only, and a caption starts with the
embeddings e = psi(c). So this is `generate` for one beam, written out: rows have their own lengths,
a row that ended leaves, and a waiting one takes its place.

Shapes: n rows in progress, B rows that begin together, Q embeddings of a prompt, d_LM the language
model's width, L the longest row's positions, V the vocabulary.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from vlv.errors import ConfigError
from vlv.inference.batching import OUT_OF_MEMORY_ALONE, clear_memory
from vlv.inference.engines.attention import share_keys
from vlv.inference.engines.engine import CaptionEngine, NewTokens, RequestFailed
from vlv.inference.engines.packing import PackedWeights
from vlv.inference.engines.passes import passes_of
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.selection import Row, TokenSelector, write_next
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.caption_tokens import start_ids
from vlv.models.precision import out_of_memory

# Positions in one prefill pass of several rows; a single row may have more. Rows in progress wait
# for the pass.
_PREFILL_POSITIONS = 2048


@dataclass
class _Row(Row):
    """A sequence with its prompt: e (Q,d_LM) and the tokens of a forced start."""

    e: Tensor
    start: list[int]

    @property
    def positions(self) -> int:
        """Positions of the prompt, the forced start and the tokens."""
        return len(self.e) + len(self.start) + len(self.ids)

    @property
    def begins_as(self) -> tuple[int, tuple[int, ...]]:
        """Equal for rows whose prefill is the same."""
        return self.key, tuple(self.ids)


class TransformersEngine(CaptionEngine):
    """A caption decoder in memory that writes at most `max_rows` sequences at once.

    Until the engine is closed, its language model computes and cannot be saved: see
    `PackedWeights`.

    halves: where memory runs out, work on half as many rows from then on. Rows in progress begin
    again with the tokens that they have.
    """

    def __init__(
        self, caption_decoder: CaptionDecoder, max_rows: int, *, halves: bool = False
    ) -> None:
        """Raises ConfigError for a language model that keeps its states in a cache of its own."""
        self.max_rows = max_rows
        self._lm = caption_decoder.lm
        self._tokenizer = caption_decoder.tokenizer
        self._end_token = int(caption_decoder.tokenizer.eos_token_id)
        self._halves = halves
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._passes = passes_of(self._lm)
        self._events: list[NewTokens | RequestFailed] = []
        share_keys(self._lm)
        self._packed = PackedWeights(self._lm)

    @property
    def room(self) -> int:
        """Rows that are free, less those that wait."""
        return self.max_rows - len(self._rows) - len(self._waiting)

    @property
    def positions(self) -> int | None:
        """What every layer of the language model looks back on."""
        return self._passes.positions

    def add(self, key: int, e: Tensor, sampling: Sampling, written: Sequence[int] = ()) -> None:
        """Accept a request; see `CaptionEngine.add`.

        Raises:
            ConfigError: the caption may become longer than what the language model looks back on.
        """
        if len(written) >= sampling.max_new_tokens:
            self._events += [NewTokens(key, at, (), "length") for at in range(sampling.sequences)]
            return
        start = start_ids(self._tokenizer, sampling.forced_start)
        longest = len(e) + len(start) + sampling.max_new_tokens
        if self.positions is not None and longest > self.positions:
            raise ConfigError(
                f"the language model looks back on {self.positions} positions, and a caption "
                f"of max_new_tokens {sampling.max_new_tokens} may take {longest}; lower "
                "max_new_tokens, or search with beams"
            )
        e = e.to(self._lm.device, self._lm.dtype)
        self._waiting += [
            _Row(
                key,
                sequence,
                TokenSelector(sampling, sequence, len(written), self._tokenizer),
                list(written),
                e,
                start,
            )
            for sequence in range(sampling.sequences)
        ]

    @torch.inference_mode()
    def step(self) -> list[NewTokens | RequestFailed]:
        """At most one prefill pass of rows that wait, and one token of every row in progress."""
        if not self._attempt():
            clear_memory()
        events, self._events = self._events, []
        return events

    @torch.inference_mode()
    def cancel(self, key: int) -> None:
        """Forget a request; its rows leave at once."""
        self._waiting = deque(row for row in self._waiting if row.key != key)
        self._events = [one for one in self._events if one.key != key]
        self._remove([at for at, row in enumerate(self._rows) if row.key == key])

    def close(self) -> None:
        """Forget everything, the cache too."""
        self._waiting.clear()
        self._rows, self._events = [], []
        self._passes.clear()
        self._packed.restore()

    def _attempt(self) -> bool:
        """A step; where memory runs out, the rows go back to those that wait."""
        beginning: list[_Row] = []
        try:
            beginning = self._next_rows()
            if beginning:
                self._prefill(beginning)
                beginning = []
            if self._rows:
                self._write_tokens()
        except (RuntimeError, MemoryError) as error:
            if not (self._halves and out_of_memory(error)):
                raise
        else:
            return True
        self._begin_again(beginning)
        return False

    def _begin_again(self, beginning: list[_Row]) -> None:
        begun = {id(row) for row in self._rows}
        rows = [*self._rows, *(row for row in beginning if id(row) not in begun)]
        if len(rows) == 1:
            raise ConfigError(OUT_OF_MEMORY_ALONE)
        self.max_rows = len(rows) // 2
        # The draws of a failed step may have been taken.
        for row in rows:
            sampling = row.selector.sampling
            row.selector = TokenSelector(sampling, row.sequence, len(row.ids), self._tokenizer)
        self._waiting.extendleft(reversed(rows))
        self._rows = []
        self._passes.clear()

    def _next_rows(self) -> list[_Row]:
        """Waiting rows with equally many positions that make one prefill pass."""
        free = self.max_rows - len(self._rows)
        rows: list[_Row] = []
        passes = set()
        while self._waiting and len(rows) < free:
            row = self._waiting[0]
            passes.add(row.begins_as)
            if rows and (
                row.positions != rows[0].positions
                or len(passes) * row.positions > _PREFILL_POSITIONS
            ):
                break
            rows.append(self._waiting.popleft())
        return rows

    def _prefill(self, rows: list[_Row]) -> None:
        """Read prompts (B,Q,d_LM) and the tokens after them, once for all rows of a request, and
        write the next token of each row.
        """
        groups = [list(group) for _, group in groupby(rows, lambda row: row.begins_as)]
        copies = [len(group) for group in groups]
        e = torch.stack([group[0].e for group in groups])
        words = [[*group[0].start, *group[0].ids] for group in groups]
        ids = torch.tensor(words, dtype=torch.long, device=e.device)
        embedded = self._lm.get_input_embeddings()(ids).to(e.dtype)
        logits = self._passes.begin(torch.cat([e, embedded], dim=1), copies)
        self._rows += rows
        repeats = torch.tensor(copies, device=logits.device)
        self._select(rows, logits.repeat_interleave(repeats, 0))

    def _write_tokens(self) -> None:
        """Write the next token of every row."""
        device = self._lm.device
        last = torch.tensor([row.ids[-1:] for row in self._rows], device=device)
        # Of what the passes keep; the last token was not read yet.
        positions = torch.tensor([row.positions - 1 for row in self._rows], device=device)
        self._select(self._rows, self._passes.next(last, positions))

    def _select(self, rows: list[_Row], logits: Tensor) -> None:
        """Give rows their next token by logits (n,V), and let go of those that are finished."""
        # A copy, which may be changed.
        events = write_next(rows, logits.to(torch.float32, copy=True), self._end_token)
        self._events += events
        finished = {id(row) for row, event in zip(rows, events, strict=True) if event.finish}
        self._remove([at for at, row in enumerate(self._rows) if id(row) in finished])

    def _remove(self, places: list[int]) -> None:
        """Remove rows; the last ones take their places."""
        for at in reversed(places):
            self._passes.remove(at)
            last = self._rows.pop()
            if at < len(self._rows):
                self._rows[at] = last
        if not self._rows:
            self._passes.clear()
