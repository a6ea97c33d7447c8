"""Training with dropped embeddings: which are kept, and that the others take no part."""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.families.tiny_families import TINY_FAMILIES
from tests.tiny import build_vlv
from tests.training.conftest import Workshop
from torch import Tensor

from vlv.errors import ConfigError
from vlv.models.encoder import TASK_PROMPTS
from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)
from vlv.training.loop import train
from vlv.training.objectives.denoising import denoising_loss
from vlv.training.objectives.kept_queries import visible
from vlv.training.registry import build_stage
from vlv.training.samples.query_drop import QueryDrop, QueryDropKind, powers_of_two

# Of the tiny model.
QUERIES = 8


def drop_of(
    kind: QueryDropKind, lengths: list[int], queries: int = QUERIES, **changes: Any
) -> QueryDrop:
    return QueryDrop(kind, queries, lengths, **{"seed": 0, **changes})


def lengths_of(drop: QueryDrop, count: int = 4000) -> Counter[int]:
    return Counter(int(drop.at(position)["kept_queries"].sum()) for position in range(count))


def test_tails_are_dropped_at_the_stated_lengths() -> None:
    uniform = drop_of("tail", [*range(1, QUERIES + 1)])
    found = lengths_of(uniform)
    assert sorted(found) == list(range(1, QUERIES + 1))
    assert max(found.values()) < 1.3 * min(found.values())
    for position in range(50):
        kept = uniform.at(position)["kept_queries"]
        assert torch.equal(kept, torch.arange(QUERIES) < kept.sum())
    half = lengths_of(drop_of("tail", powers_of_two(77), 77, probability=0.5))
    assert sorted(half) == [1, 2, 4, 8, 16, 32, 64, 77]
    # Half of the samples, and one in eight of the others.
    assert half[77] / half.total() == pytest.approx(0.5 + 0.5 / 8, abs=0.03)


def test_random_drop_keeps_as_many_but_any_of_them() -> None:
    random = drop_of("random", [*range(1, QUERIES + 1)])
    assert sorted(lengths_of(random)) == list(range(1, QUERIES + 1))
    kept = torch.stack([random.at(position)["kept_queries"] for position in range(2000)])
    shares = kept.float().mean(0)
    # The mean of 1 to 8, for every place.
    torch.testing.assert_close(shares, torch.full_like(shares, 4.5 / 8), atol=0.05, rtol=0)


def test_what_is_kept_depends_on_seed_and_position_alone() -> None:
    drop = drop_of("tail", [*range(1, 78)], 77, seed=3)
    copy = pickle.loads(pickle.dumps(drop))
    there = [drop.at(position)["kept_queries"] for position in (5, 2**40, 0)]
    back = [copy.at(position)["kept_queries"] for position in (0, 2**40, 5)]
    assert all(torch.equal(a, b) for a, b in zip(there, reversed(back), strict=True))
    other = drop_of("tail", [*range(1, 78)], 77, seed=4)
    assert lengths_of(other, 5) != lengths_of(drop, 5)


@pytest.mark.parametrize(
    ("queries", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_powers_of_two(queries: int, expected: list[int]) -> None:
    assert powers_of_two(queries) == expected


@pytest.mark.parametrize(
    ("lengths", "expected"), [("uniform", range(1, 9)), ("powers", [1, 2, 4, 8]), ([3], [3])]
)
def test_a_stage_draws_the_lengths_of_its_config(
    workshop: Workshop, lengths: Any, expected: Any
) -> None:
    config = workshop.config("stage1", query_drop="tail", query_drop_lengths=lengths)
    samples = build_stage("stage1", config).samples
    found = {int(samples.item(at, at % 32)["kept_queries"].sum()) for at in range(100)}
    assert found == set(expected)


def test_more_than_there_are_cannot_be_kept(workshop: Workshop) -> None:
    config = workshop.config("stage1", query_drop="tail", query_drop_lengths=[4, 9])
    with pytest.raises(ConfigError, match="names 9, and the encoder has 8 queries"):
        build_stage("stage1", config)


@pytest.mark.parametrize(
    "field", [{"query_drop_lengths": "powers"}, {"query_drop_probability": 0.5}]
)
def test_fields_of_a_drop_need_one(workshop: Workshop, field: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(field))} needs query_drop"):
        build_stage("stage1", workshop.config("stage1", **field))


def test_nothing_is_hidden_where_every_token_sees_all_embeddings(
    workshop: Workshop, tmp_path: Path
) -> None:
    """T5 attends in both directions, so that captions cannot be read from a prefix alone."""
    texts, config = ["a red cube"], dict(TINY_FAMILIES["flux"])
    # The size of the world's pictures.
    config |= {"decoder_image_size": 64, "encoder": {**config["encoder"], "image_size": 64}}
    flux = build_vlv(
        VLVConfig.model_validate(config),
        encoder_tokenizer=train_florence_tokenizer(TASK_PROMPTS.values()),
        text_tokenizer=train_clip_tokenizer(texts),
        language_tokenizer=train_qwen2_tokenizer(texts),
    )
    flux.save_pretrained(tmp_path / "flux")
    changes = {"stage1": str(tmp_path / "flux"), "denoising_weight": 0.0, "query_drop": "tail"}
    with pytest.raises(ConfigError, match="query_drop: in the text tower of the family flux"):
        build_stage("stage2", workshop.config("stage2", **changes))
    # Z itself is of the embeddings one by one. It is wider there than the tokens of c.
    of_z: Any = build_stage("stage2", workshop.config("stage2", **changes, captions_from="z"))
    assert of_z.objective.text_tower.width != of_z.objective.text_tower.conditioning_width
    assert of_z.objective(batch_of(of_z))[0].isfinite()


def batch_of(stage: Any, size: int = 4) -> dict[str, Tensor]:
    return torch.utils.data.default_collate([stage.samples.item(i, i) for i in range(size)])


def alone(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in batch.items() if name != "kept_queries"}


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_prefix_among_others_denoises_as_the_prefix_alone(
    workshop: Workshop, bfloat16: bool
) -> None:
    config = workshop.config("stage1", query_drop="tail", noise_draws=2)
    stage: Any = build_stage("stage1", config)
    objective = stage.objective.eval()
    batch = batch_of(stage)
    lengths = batch["kept_queries"].sum(1).tolist()
    assert len(set(lengths)) > 1 and min(lengths) < QUERIES
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        z = objective.embeddings(batch)
        together = objective(batch)[0]
        single, all_of_z = [], []
        for row, length in enumerate(lengths):
            c = objective.text_tower(z[row : row + 1, :length])
            single.append(denoising_loss(objective.decoder, alone(batch, row), c))
            c = objective.text_tower(z[row : row + 1])
            all_of_z.append(denoising_loss(objective.decoder, alone(batch, row), c))
    expected, other = torch.stack(single).mean(), torch.stack(all_of_z).mean()
    atol = 2e-3 if bfloat16 else 1e-5
    torch.testing.assert_close(together, expected, atol=atol, rtol=0)
    if not bfloat16:
        assert abs(together - other) > 10 * abs(together - expected)


@pytest.mark.parametrize("captions_from", ["c", "z"])
@pytest.mark.parametrize("kind", ["tail", "random"])
def test_a_caption_is_read_from_what_is_kept_alone(
    workshop: Workshop, kind: str, captions_from: str
) -> None:
    config = workshop.config(
        "stage2", query_drop=kind, captions_from=captions_from, denoising_weight=0.0
    )
    stage: Any = build_stage("stage2", config)
    objective = stage.objective.eval()
    batch = batch_of(stage)
    kept = batch["kept_queries"]
    assert not kept.all()
    with torch.no_grad():
        z = objective.embeddings(batch)
        read = z if captions_from == "z" else objective.text_tower(z).tokens
        together = objective(batch)[0]
        single = [
            objective.caption_decoder(
                read[row : row + 1, kept[row]],
                batch["caption_ids"][row : row + 1, : batch["caption_length"][row]],
                batch["caption_length"][row : row + 1],
            )
            for row in range(len(kept))
        ]
        whole = objective.caption_decoder(read, batch["caption_ids"], batch["caption_length"])
    expected = torch.stack(single).mean()
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    assert abs(together - whole) > 10 * abs(together - expected)


def test_dropped_embeddings_get_no_gradient(workshop: Workshop) -> None:
    config = workshop.config("stage2", query_drop="tail", query_drop_lengths="powers")
    stage: Any = build_stage("stage2", config)
    objective = stage.objective
    batch = batch_of(stage)
    z = objective.embeddings(batch).detach().requires_grad_()
    objective.embeddings = lambda _: z
    loss, metrics = objective(batch)
    loss.backward()
    assert metrics["denoising_loss"] > 0
    moved = z.grad.abs().sum(-1) > 0
    assert torch.equal(moved, batch["kept_queries"])


def test_all_kept_is_as_no_mask_to_rounding(workshop: Workshop) -> None:
    stage: Any = build_stage("stage1", workshop.config("stage1"))
    objective, batch = stage.objective.eval(), batch_of(stage)
    with torch.no_grad():
        plain = objective(batch)[0]
        c = objective.text_tower(objective.embeddings(batch))
        masked = visible(c, torch.ones(4, QUERIES, dtype=torch.bool))
        torch.testing.assert_close(
            denoising_loss(objective.decoder, batch, masked), plain, atol=1e-6, rtol=0
        )


def test_nothing_else_is_drawn_differently(workshop: Workshop) -> None:
    plain = build_stage("stage2", workshop.config("stage2")).samples.item(7, 3)
    dropped = build_stage("stage2", workshop.config("stage2", query_drop="random")).samples.item(
        7, 3
    )
    assert dropped.keys() - plain.keys() == {"kept_queries"}
    assert all(torch.equal(dropped[name], plain[name]) for name in plain)


def test_prefixes_are_validated_and_a_resumed_run_is_the_same(
    workshop: Workshop, tmp_path: Any
) -> None:
    def run(name: str, **changes: Any) -> Any:
        config = workshop.config(
            "stage1",
            output_dir=str(tmp_path / name),
            query_drop="tail",
            lr_scheduler="constant",
            checkpointing_steps=1,
            **changes,
        )
        return train(build_stage("stage1", config))

    straight = run("straight", max_train_steps=3)
    run("cut", max_train_steps=1)
    resumed = run("cut", max_train_steps=3)
    weights = "encoder/vlv_head.safetensors"
    assert (straight / weights).read_bytes() == (resumed / weights).read_bytes()
    plain = workshop.run("stage1", output_dir=str(tmp_path / "plain"), max_train_steps=3)
    assert (straight / weights).read_bytes() != (plain / weights).read_bytes()

    validated = json.loads((straight / "run.json").read_text())["validation"]
    prefixes = [name for name in validated if "/first_" in name]
    assert prefixes == [f"denoising_loss/first_{length}" for length in (1, 2, 4)]
    assert (
        "denoising_loss/first_1" not in json.loads((plain / "run.json").read_text())["validation"]
    )
