"""Learning rates of parts, weight decay on matrices, and the optimizers: what they move, and that a
run that is cut off ends as one that was not.
"""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import Workshop
from torch import nn

from vlv.errors import ConfigError
from vlv.training.checkpoint import list_checkpoints, read_checkpoint
from vlv.training.optimizers import make_optimizer
from vlv.training.registry import build_stage

RATES = {"phi": 1.0e-2, "transformer": 1.0e-4}
OPTIMIZERS = ("adamw", "adamw8bit", "muon")


def groups_by_name(stage: Any) -> dict[str, dict[str, Any]]:
    """The optimizer's settings of each parameter."""
    names = {id(p): name for name, p in stage.objective.named_parameters()}
    optimizer = make_optimizer(stage.objective, stage.config)
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def rows(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "grad_norm" in row]


def test_without_settings_there_is_one_group_in_the_objective_s_order(workshop: Workshop) -> None:
    stage = build_stage("stage2", workshop.config("stage2"))
    (group,) = make_optimizer(stage.objective, stage.config).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in stage.objective.trainable().values()]
    assert (group["lr"], group["weight_decay"]) == (1.0e-3, 0.01)


def test_parts_follow_the_schedule_at_their_own_rates(workshop: Workshop, tmp_path: Path) -> None:
    workshop.run(
        "stage1",
        output_dir=str(tmp_path),
        learning_rates=RATES,
        max_train_steps=4,
        lr_warmup_steps=2,
        lr_scheduler="linear",
        logging_steps=1,
        validation_steps=100,
        validation_picture=False,
    )
    for row, share in zip(rows(tmp_path), (0.5, 1.0, 0.5, 0.0), strict=True):
        logged = {name: rate for name, rate in row.items() if name.startswith("learning_rate")}
        assert logged == pytest.approx(
            {
                "learning_rate": 1.0e-3 * share,
                "learning_rate/phi": 1.0e-2 * share,
                "learning_rate/transformer": 1.0e-4 * share,
            }
        )


def test_a_name_of_one_part_goes_before_a_name_of_several(workshop: Workshop) -> None:
    rates = {"phi": 1.0e-2, "encoder": 1.0e-5, "psi": 1.0e-4}
    groups = groups_by_name(build_stage("stage2", workshop.config("stage2", learning_rates=rates)))
    assert groups["encoder.phi.0.weight"]["lr"] == 1.0e-2
    assert groups["encoder.queries"]["lr"] == 1.0e-5
    assert groups["caption_decoder.psi.0.weight"]["lr"] == 1.0e-4
    vision = {g["lr"] for name, g in groups.items() if "vision_tower" in name}
    language = {g["lr"] for name, g in groups.items() if name.startswith("caption_decoder.lm.")}
    assert vision == language == {1.0e-3}


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        ("stage1", {"learning_rates": {"vison": 1.0}}, r"vison, which is no part \(did you mean"),
        ("stage1", {"learning_rates": {"psi": 1.0}}, "psi a rate, but psi does not train"),
        (
            "stage2",
            {"learning_rates": {"encoder": 1.0}, "trainable": ["psi", "phi"]},
            "but projection and transformer and queries does not train",
        ),
        ("stage1", {"learning_rates": {"phi": 0.0}}, r"learning_rates\.phi: Input should be great"),
        ("language-model", {"learning_rates": {"psi": 1.0}}, "unknown key learning_rates"),
        ("stage1", {"optimizer": "lion"}, "optimizer: Input should be 'adamw', 'adamw8bit'"),
    ],
)
def test_wrong_settings_are_one_sentence(
    workshop: Workshop, stage: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_stage(stage, workshop.config(stage, **fields))


def test_norms_biases_and_embeddings_do_not_decay(workshop: Workshop) -> None:
    stage: Any = build_stage("stage2", workshop.config("stage2", weight_decay_on="matrices"))
    groups = groups_by_name(stage)
    decays = {name for name, group in groups.items() if group["weight_decay"] == 0.01}
    assert {group["weight_decay"] for group in groups.values()} == {0.0, 0.01}
    assert {"encoder.phi.0.weight", "caption_decoder.psi.2.weight"} <= decays
    for name, module in stage.objective.named_modules():
        weight = f"{name}.weight"
        if weight in groups and "norm" in type(module).__name__.lower():
            assert weight not in decays
        if weight in groups and isinstance(module, nn.Embedding):
            assert weight not in decays
    assert "encoder.queries" not in decays
    assert not any(name.endswith("bias") for name in decays)
    # The tiny language model's head is its table of embeddings.
    assert not any("lm_head" in name or "embed" in name for name in decays)
    assert any("conv" in name for name in decays)


def test_muon_moves_hidden_matrices_and_adamw_the_rest(workshop: Workshop) -> None:
    stage: Any = build_stage("stage2", workshop.config("stage2", optimizer="muon"))
    optimizer = make_optimizer(stage.objective, stage.config)
    names = {id(p): name for name, p in stage.objective.named_parameters()}
    for parameter in stage.objective.trainable().values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    momentum = {
        names[id(p)] for p, fields in optimizer.state.items() if "momentum_buffer" in fields
    }
    moments = {names[id(p)] for p, fields in optimizer.state.items() if "exp_avg_sq" in fields}
    assert momentum | moments == set(stage.objective.trainable())
    assert not momentum & moments
    assert "caption_decoder.lm.model.layers.0.mlp.up_proj.weight" in momentum
    assert {"encoder.queries", "caption_decoder.lm.model.embed_tokens.weight"} <= moments


# Other runs that go on, killed ones too, have AdamW.
@pytest.mark.parametrize(
    "optimizer",
    [pytest.param(one, marks=pytest.mark.slow if one == "adamw" else []) for one in OPTIMIZERS],
)
def test_a_resumed_run_ends_bit_identical(
    workshop: Workshop, tmp_path: Path, optimizer: str
) -> None:
    """With several groups: the order of the optimizer is not that of the objective."""
    fields = {
        "optimizer": optimizer,
        "learning_rates": RATES,
        "weight_decay_on": "matrices",
        "lr_scheduler": "constant",
        "checkpointing_steps": 2,
        "validation_steps": 100,
        "validation_picture": False,
        "logging_steps": 1,
    }

    def run(name: str, steps: int) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        workshop.run("stage1", output_dir=str(folder), max_train_steps=steps, **fields)
        tensors, _ = read_checkpoint(list_checkpoints(folder)[-1])
        return {f"{kind}/{k}": v for kind, named in tensors.items() for k, v in named.items()}

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4)
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    quantized = [name for name in whole if whole[name].dtype == torch.uint8]
    assert bool(quantized) == (optimizer == "adamw8bit")
    losses = [row["loss"] for row in rows(tmp_path / "whole")]
    assert [row["loss"] for row in rows(tmp_path / "parts")] == losses
    with pytest.raises(Exception, match="other values of optimizer"):
        fields["optimizer"] = "muon" if optimizer == "adamw" else "adamw"
        run("parts", 6)


def test_a_checkpoint_that_is_older_than_the_settings_is_resumed(
    workshop: Workshop, tmp_path: Path
) -> None:
    import hashlib

    workshop.run("language-model", output_dir=str(tmp_path))
    folder = list_checkpoints(tmp_path)[-1]
    state = json.loads((folder / "state.json").read_text())
    for name in ("optimizer", "weight_decay_on", "compile", "dataloader_prefetch_factor"):
        del state["config"][name]
    (folder / "state.json").write_text(json.dumps(state))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["state.json"] = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match="other values of optimizer"):
        workshop.run(
            "language-model", output_dir=str(tmp_path), max_train_steps=3, optimizer="muon"
        )
    workshop.run("language-model", output_dir=str(tmp_path), max_train_steps=3)
    assert [row["step"] for row in rows(tmp_path)][-1] == 3


def test_8_bit_without_its_package_is_one_sentence(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = build_stage("stage1", workshop.config("stage1", optimizer="adamw8bit"))
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("bitsandbytes"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"adamw8bit needs bitsandbytes: pip install"):
        make_optimizer(stage.objective, stage.config)
