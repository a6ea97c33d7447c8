"""Counts of operations against hand counts, and the table from the command line."""

import re
from pathlib import Path

import pytest
import torch
from tests.shared import shared_folder
from torch import Tensor, nn

from vlv.checkpoints.skeleton import skeleton
from vlv.cli.app import main
from vlv.evaluation.metrics.flops import encoder_step
from vlv.evaluation.results import Result, read_result
from vlv.evaluation.tables.cost import ADA_PEAK, H200_PEAK, CostConfig, claims
from vlv.evaluation.tables.recipe_cost import Cost
from vlv.pipeline import VLV
from vlv.training.cost.flops import step_flops
from vlv.training.registry import stage_config
from vlv.training.reproduce import configs_folder
from vlv.training.samples.source import Batch
from vlv.training.stages.stage2 import Stage2Config


class Layers(nn.Module):
    """What `step_flops` asks of a stage: a loss of a batch."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.layers(batch["x"]).sum(), {}


def count(x: Tensor, *layers: nn.Module) -> int:
    return step_flops(Layers(*layers).to("meta"), {"x": x.to("meta")})  # type: ignore[arg-type]


def test_linear_layers_count_forward_and_both_gradients() -> None:
    x = torch.empty(3, 8)
    first, second = 2 * 3 * 8 * 16, 2 * 3 * 16 * 4
    # Nothing asks for the gradient of the input.
    assert count(x, nn.Linear(8, 16), nn.Linear(16, 4)) == 2 * first + 3 * second
    # A frozen layer passes gradients on and has none of its own.
    frozen = nn.Linear(16, 4).requires_grad_(False)
    assert count(x, nn.Linear(8, 16), frozen) == 2 * first + 2 * second


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_grouped_convolutions_count_their_own_group_alone(groups: int) -> None:
    x = torch.empty(2, 16, 8, 8)
    dense, grouped = (2 * 2 * 64 * 9 * 16 * 16 // g for g in (1, groups))
    layers = [nn.Conv2d(16, 16, 3, padding=1, groups=g) for g in (1, groups)]
    assert count(x, *layers) == 2 * dense + 3 * grouped


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Of the package's model, and the paper's recipe at the smaller size."""
    return read_result(shared_folder(tmp_path_factory, "cost", run_the_command) / "cost.json")


def run_the_command(folder: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(
            [
                *("eval", "cost", "encoder_image_sizes=[384]", "device=cpu"),
                *("price_per_core_hour=0.5", "-o", str(folder / "cost.json")),
            ]
        )
    assert not stop.value.code


@pytest.mark.slow
class TestTable:
    """Nightly: all recipes are counted. The quick report of .ci/run prints the table."""

    def test_rows_of_the_mini_are_its_records(self, result: Result) -> None:
        stages = VLV.from_pretrained("vlv-mini").provenance["stages"]
        runs = [row for row in result.rows if row.labels["recipe"] == "mini"]
        assert {str(row.labels["stage"]).partition(",")[0] for row in runs} == {
            *stages,
            "stages 1 and 2",
            "all",
        }
        alone = [name for name, record in stages.items() if "before" not in record]
        for name in alone:
            record, row = stages[name], result.row(recipe="mini", stage=name)
            value = {key: figure.value for key, figure in row.figures.items()}
            hours = record["seconds"] / 3600
            assert row.count == record["samples_seen"]
            assert value["hours"] == pytest.approx(hours)
            assert value["total_pflop"] == pytest.approx(value["sample_gflop"] * row.count / 1e6)
            assert value["gflop_per_second"] == pytest.approx(
                value["total_pflop"] * 1e6 / record["seconds"]
            )
            if "+cpu" in record["torch"]:
                cores = record["processes"] * record["threads"]
                assert value["usd"] == pytest.approx(0.5 * cores * hours)
        whole = result.row(recipe="mini", stage="all").figures
        for name in ("total_pflop", "hours", "usd"):
            parts = [row.figures[name].value for row in runs if "sample_gflop" in row.figures]
            assert whole[name].value == pytest.approx(sum(parts))

    def test_a_language_model_costs_six_operations_a_weight_and_token(self, result: Result) -> None:
        """Beside attention, which is little at its size."""
        model = VLV.from_pretrained("vlv-mini")
        record = model.provenance["stages"]["language-model"]
        lm = model.caption_decoder.lm
        matrices = sum(p.numel() for p in lm.model.layers.parameters() if p.ndim > 1)
        matrices += lm.get_output_embeddings().weight.numel()
        found = result.row(recipe="mini", stage="language-model").figures["sample_gflop"].value
        tokens = 1e9 * found / (6 * matrices)
        assert 60 < tokens < 1.3 * record["config"]["max_tokens"]

    def test_the_paper_s_recipe(self, result: Result) -> None:
        first, second, both = (
            result.row(recipe="paper", stage=stage)
            for stage in ("stage1", "stage2", "stages 1 and 2")
        )
        assert (first.count, second.count) == (200_000 * 512, 100_000 * 64)
        # By another count about 2.9 TFLOP an image.
        assert first.figures["sample_gflop"].value == pytest.approx(2950, rel=0.02)
        # Qwen2.5-3B alone: 6 operations for each of 3.1 billion weights, over 227 tokens and,
        # but for the output layer, 77 embeddings.
        alone = 6 * (2.77e9 * (227 + 77) + 0.31e9 * 228) / 1e9
        assert alone < second.figures["sample_gflop"].value < 1.3 * alone
        hours = both.figures["total_pflop"].value * 1e15 / (0.4 * 989e12) / 3600
        assert both.figures["h200_hours"].value == pytest.approx(hours)
        assert both.figures["h200_usd"].value == pytest.approx(3 * hours)
        total = first.figures["ada_usd"].value + second.figures["ada_usd"].value
        assert both.figures["ada_usd"].value == pytest.approx(total)

    def test_what_is_printed_is_what_is_priced(self, result: Result) -> None:
        """The figure again, from the file and the fields that the table's note names."""
        pattern = r"configs/paper, stage2: (\S+\.yaml), with (\S+=\S+), trains .* of (\d+) tokens"
        (found,) = filter(None, (re.match(pattern, note) for note in result.notes))
        file, override, tokens = found.groups()
        path = configs_folder().parent / file
        config, _ = stage_config("stage2", path, [override])
        assert isinstance(config, Stage2Config) and config.language_model is not None
        assert config.denoising_weight == 1
        model = skeleton(language_model=f"Qwen/{config.language_model.name}")
        model.encoder.settings = model.encoder.settings.model_copy(update={"image_size": 384})
        flops = step_flops(*encoder_step(config, model, int(tokens)))
        row = result.row(recipe="configs/paper", stage="stage2")
        assert row.figures["sample_gflop"].value == pytest.approx(flops / 1e9)

    def test_recipes_are_recorded_with_the_configs_that_they_are_priced_by(
        self, result: Result
    ) -> None:
        priced = {(one["recipe"], one["stage"]): one for one in result.provenance["recipes"]}
        figures = {
            key: result.row(recipe=key[0], stage=key[1]).figures["sample_gflop"].value
            for key in priced
        }
        assert figures["paper", "stage1"] == figures["configs/paper", "stage1"]
        # The paper's second stage has no denoising loss; the recipe here keeps it.
        weights = {key: one["config"].get("denoising_weight") for key, one in priced.items()}
        assert weights["paper", "stage2"] == 0 and weights["configs/paper", "stage2"] == 1
        assert figures["configs/paper", "stage2"] > 1.2 * figures["paper", "stage2"]
        assert any("denoising_weight=0" in x and "without the denoising" in x for x in result.notes)

    def test_assumptions_and_rate_are_stated(self, result: Result) -> None:
        notes = " ".join(result.notes)
        for words in ("0.5 USD a core hour", "3 an H200 hour", "40% of 989 TFLOP/s"):
            assert words in notes
        rate = result.provenance["matrix_product_flops_per_second"]
        assert f"{rate / 1e9:.1f} GFLOP/s" in notes


def test_claims_are_what_is_left_of_the_limit() -> None:
    """400 H200 hours' worth of operations, on either card."""
    flops = 400 * 3600 * 0.4 * H200_PEAK
    cost = Cost(1, flops)
    made = claims({384: {"stage1": cost, "stages 1 and 2": cost}}, CostConfig())
    verdicts = [(claim.difference.value, claim.verdict) for claim in made]
    ada = 400 * H200_PEAK / ADA_PEAK
    assert [value for value, _ in verdicts] == pytest.approx(
        [
            1000 - 3 * 400,
            1000 - 400,
            1000 - 0.8 * ada,
            1000 - ada,
            (ADA_PEAK - flops / 768 / 3600) / 1e12,
        ]
    )
    assert [verdict for _, verdict in verdicts] == [
        "contradicted",
        "confirmed",
        *["contradicted"] * 3,
    ]
