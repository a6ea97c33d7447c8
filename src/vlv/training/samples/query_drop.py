"""Which of a sample's embeddings are kept in a training step, as a function of its position.

Knows no model: an objective hides what is not kept (`vlv.training.objectives.kept_queries`).

Shapes: Q queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from vlv.training.samples.data_order import generator
from vlv.training.samples.source import Batch

QueryDropKind = Literal["tail", "random"]


@dataclass(frozen=True)
class QueryDrop:
    """How embeddings are dropped: nested dropout (Rippel et al. 2014, arXiv 1402.0915), as ViLex
    (arXiv 2412.06774) and FlexTok (arXiv 2502.13967) use it to order their tokens.

    tail: the first N of Q are kept, with N one of `lengths`, each as likely. random: any N of them,
    for comparison. probability: of a sample to be cut; of the others all are kept.
    """

    kind: QueryDropKind
    queries: int
    lengths: Sequence[int]
    seed: int
    probability: float = 1.0

    def at(self, position: int) -> Batch:
        """`kept_queries` (Q,), bool, at a position; at least one is kept."""
        random = generator(self.seed, position, "query_drop")
        cut, u = torch.rand(2, generator=random).tolist()
        length = self.lengths[int(u * len(self.lengths))]
        kept = length if cut < self.probability else self.queries
        if self.kind == "random":
            return {"kept_queries": torch.randperm(self.queries, generator=random) < kept}
        return {"kept_queries": torch.arange(self.queries) < kept}


def powers_of_two(queries: int) -> list[int]:
    """1, 2, 4 and so on below the number of queries, and that number."""
    return [2**power for power in range((queries - 1).bit_length())] + [queries]
