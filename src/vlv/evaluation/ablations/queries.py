"""`vlv eval queries`: how many caption embeddings a picture needs (Table 4, left)."""

from typing import Any

from pydantic import Field

from vlv.evaluation.ablations.shared import Ablation, AblationConfig
from vlv.evaluation.results import Claim, Progress, Result, silent


class QueriesConfig(AblationConfig):
    """queries: numbers of them, in rising order."""

    queries: list[int] = Field(default=[4, 16, 77], min_length=2)


def evaluate(config: QueriesConfig, progress: Progress = silent) -> Result:
    """Train a stage 1 for each number of queries, and compare what is drawn from embeddings.

    Raises:
        TrainingError: runs failed.
    """
    sizes = config.model_sizes()
    groups = {
        (number,): [
            config.stage1_run(seed, sizes=_with_queries(sizes, number))
            for seed in config.seeds_at(config.queries, number)
        ]
        for number in config.queries
    }
    ablation = Ablation(config, "pictures", groups, progress)
    few, many = config.queries[0], config.queries[-1]
    claim = Claim(
        statement="More queries reconstruct better.",
        paper="table 4, left: FID 5.72, 5.60, 5.30 with 16, 32, 77 queries",
        measure=f"F1 of objects, {many} queries minus {few}",
        difference=ablation.difference("f1", (many,), (few,)),
    )
    return Result(
        name="queries",
        title="Reconstruction by number of queries",
        paper="table 4, left",
        rows=[ablation.row((number,), {"queries": number}) for number in config.queries],
        claims=[claim],
        provenance=ablation.provenance("queries"),
    )


def _with_queries(sizes: dict[str, Any], number: int) -> dict[str, Any]:
    return {**sizes, "encoder": {**sizes["encoder"], "num_queries": number}}
