"""Stages 1 and 2 on images from disk, some of which are unusable."""

import json
import logging
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.training.conftest import Workshop
from tests.training.image_folders import COUNT, REFUSED, sample, write_images
from tests.training.test_loop import start, wait_for_checkpoint, whole_state

from vlv.errors import ConfigError, TrainingError
from vlv.models.preprocessing import decoder_pixels
from vlv.pipeline import VLV
from vlv.training.checkpoint import list_checkpoints, read_checkpoint
from vlv.training.objectives.encoding import EncoderObjective
from vlv.training.provenance import OTHER_LICENCE
from vlv.training.registry import build_stage
from vlv.training.samples.data_order import NEW_RUNS, sample_index
from vlv.training.samples.held_out import HeldOut
from vlv.training.stage import Stage
from vlv.training.stages.encoding import open_images

HELD_OUT = 4
TRAINED = COUNT - HELD_OUT


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    formats = ("folder", "webdataset", "parquet")
    return {name: write_images(folder / name, name) for name in formats}


@pytest.fixture
def own(workshop: Workshop, sets: dict[str, Path]) -> dict[str, Any]:
    """Changes that make a run of the workshop one on images from disk, from a model folder."""
    return {
        "data": {"set": str(sets["folder"]), "index_folder": str(workshop.root / "indexes")},
        "validation_count": HELD_OUT,
        "logging_steps": 1,
    }


def stage1(workshop: Workshop, **changes: Any) -> dict[str, Any]:
    """Stage 1 goes on from the workshop's, as from a folder of published parts."""
    return {"decoder": None, "initial_model": str(workshop.root / "s1" / "final"), **changes}


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_no_pictures_into_its_set(
    workshop: Workshop, own: dict[str, Any], sets: dict[str, Path]
) -> None:
    inside = str(sets["folder"] / "run")
    with pytest.raises(ConfigError, match=r"lies in the folder of the images, .*; name a folder"):
        workshop.run("stage1", **stage1(workshop, **own, output_dir=inside))


def refused_until(position: int) -> int:
    """How many images are replaced at the positions before this one, counted from the set alone."""
    total = 0
    for at in range(position):
        index = sample_index(0, at, TRAINED, NEW_RUNS)
        while index % TRAINED in REFUSED:
            total, index = total + 1, index + 1
    return total


# That all layouts give the same samples is shown below.
@pytest.mark.parametrize(
    "format",
    [
        "webdataset",
        pytest.param("folder", marks=pytest.mark.slow),
        pytest.param("parquet", marks=pytest.mark.slow),
    ],
)
def test_stages_learn_from_images_on_disk_and_count_the_refused(
    workshop: Workshop, own: dict[str, Any], sets: dict[str, Path], tmp_path: Path, format: str
) -> None:
    data = {**own["data"], "set": str(sets[format])}
    steps = 6  # of four images: one epoch and a bit
    run = {**own, "data": data, "max_train_steps": steps}
    first = workshop.run(
        "stage1",
        **stage1(workshop, **run, output_dir=str(tmp_path / "s1"), dataloader_num_workers=2),
    )
    last = workshop.run("stage2", **run, stage1=str(first), output_dir=str(tmp_path / "s2"))
    expected = [refused_until(4 * step) for step in range(1, steps + 1)]
    assert expected[-1] >= len(REFUSED)
    for folder in (first.parent, last.parent):
        logged = [row["refused"] for row in rows(folder) if "loss" in row]
        assert logged == expected
        assert json.loads((folder / "final" / "run.json").read_text())["refused"] == expected[-1]
    validation = json.loads((last / "run.json").read_text())["validation"]
    assert {"caption_loss", "denoising_loss/z"} <= set(validation)
    model = VLV.from_pretrained(last)
    # What the encoder learned to see is the crop that the decoder draws.
    assert model.encoder.settings.crop_size == 64
    assert model.caption(sample(0).picture(), num_beams=1, max_new_tokens=3)
    # Nothing is said of licences that nobody knows, nor of where on this machine images lay.
    assert model.provenance["licence"] == OTHER_LICENCE
    assert set(model.provenance["stages"]) == {"stage1", "stage2"}
    assert model.provenance["stages"]["stage1"]["config"]["data"] == {"set": format}


def test_all_layouts_train_the_same(
    workshop: Workshop, own: dict[str, Any], sets: dict[str, Path], tmp_path: Path
) -> None:
    items = []
    for path in sets.values():
        changes = {**own, "data": {**own["data"], "set": str(path)}}
        config = workshop.config("stage2", **changes, output_dir=str(tmp_path))
        samples = build_stage("stage2", config).samples
        items.append([samples.item(position, position % TRAINED) for position in range(TRAINED)])
    for other in items[1:]:
        for mine, theirs in zip(items[0], other, strict=True):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_refused_image_is_replaced_by_the_next_good_one_and_named(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = workshop.config("stage1", **stage1(workshop, **own, output_dir=str(tmp_path)))
    samples = build_stage("stage1", config).samples
    assert len(samples) == TRAINED
    with caplog.at_level(logging.WARNING):
        items = {index: samples.item(100 + index, index) for index in (3, 4, 5, 11, 12)}
    seen = {index: item["image"].numpy() for index, item in items.items()}
    for index, good in ((3, 5), (4, 5), (5, 5), (11, 12), (12, 12)):
        assert np.array_equal(seen[index], decoder_pixels(sample(good).picture(), 64)), index
    assert [int(items[index]["refused"]) for index in items] == [2, 1, 0, 1, 0]
    for index, reason in REFUSED.items():
        assert f"image {index} is refused ({reason}): " in caplog.text
    assert "the given image" not in caplog.text


def test_a_pair_without_a_caption_is_refused_in_stage_2_alone(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "set", "folder")
    (folder / "00007.txt").unlink()
    (folder / "metadata.jsonl").unlink()
    changes = {**own, "data": {"set": str(folder)}, "output_dir": str(tmp_path / "run")}
    pairs = build_stage("stage2", workshop.config("stage2", **changes))
    images = build_stage("stage1", workshop.config("stage1", **stage1(workshop, **changes)))
    assert int(pairs.samples.item(0, 7)["refused"]) == 1
    assert int(images.samples.item(0, 7)["refused"]) == 0


def test_of_several_captions_one_is_drawn_by_position_and_it_is_logged(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_images(tmp_path / "set", "folder")
    lines = ["A first line.", "Another line.", "And a third."]
    (folder / "00005.txt").write_text("\n" + "\n\n".join(lines) + "\n", encoding="utf-8")
    data = {"set": str(folder)}
    changes = {**own, "data": data, "output_dir": str(tmp_path / "run")}

    def seen(stage: Stage, positions: range = range(40)) -> list[str]:
        objective: Any = stage.objective
        items = [stage.samples.item(position, 5) for position in positions]
        ids = [item["caption_ids"][: item["caption_length"]] for item in items]
        return [
            objective.caption_decoder.tokenizer.decode(one, skip_special_tokens=True) for one in ids
        ]

    with caplog.at_level(logging.WARNING):
        stage = build_stage("stage2", workshop.config("stage2", **changes))
        assert "00005.jpg has 3 captions, one a line" in caplog.text  # before the run begins
    drawn = seen(stage)
    assert set(drawn) == set(lines)
    again = build_stage("stage2", workshop.config("stage2", **changes))
    assert seen(again, range(39, -1, -1)) == drawn[::-1]
    caplog.clear()
    joined = {**changes, "data": {**data, "join_captions": True}}
    whole = build_stage("stage2", workshop.config("stage2", **joined))
    assert set(seen(whole)) == {" ".join(lines)}
    assert "one a line" not in caplog.text
    caplog.clear()
    build_stage("stage1", workshop.config("stage1", **stage1(workshop, **changes)))
    assert "one a line" not in caplog.text  # no caption is learned from


def test_captions_that_will_be_cut_are_logged_before_the_run_begins(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a model of long captions would not learn to end them, and nothing would tell why."""
    folder = write_images(tmp_path / "set", "folder")
    changes = {**own, "data": {"set": str(folder)}, "output_dir": str(tmp_path / "run")}
    with caplog.at_level(logging.WARNING):
        build_stage("stage2", workshop.config("stage2", **changes, max_tokens=300))
        assert "max_tokens" not in caplog.text
        build_stage("stage2", workshop.config("stage2", **changes, max_tokens=5))
    assert "held-out captions have more than max_tokens (5) tokens" in caplog.text


def test_how_shards_are_read_is_no_setting_of_another_data_order(
    workshop: Workshop, own: dict[str, Any], sets: dict[str, Path], tmp_path: Path
) -> None:
    data = {**own["data"], "set": str(sets["webdataset"]), "streams": 2}
    changes = {**own, "data": data, "output_dir": str(tmp_path / "run"), "max_train_steps": 1}
    with pytest.raises(ConfigError, match="this run has data_order 2: set data_order: 3"):
        workshop.run("stage1", **stage1(workshop, **changes))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_of_nothing_but_refused_images_stops_the_run(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    folder = write_images(tmp_path / "set", "folder")
    for path in sorted(folder.glob("*.[jp]*g"))[:TRAINED]:
        path.write_bytes(b"no image")
    changes = {**own, "data": {"set": str(folder)}, "output_dir": str(tmp_path / "run")}
    changes["dataloader_num_workers"] = workers
    with pytest.raises(TrainingError, match=f"^{TRAINED} images in a row are refused"):
        workshop.run("stage1", **stage1(workshop, **changes))
    assert not list_checkpoints(tmp_path / "run")


def test_what_is_held_out_is_not_trained_on(
    workshop: Workshop, own: dict[str, Any], sets: dict[str, Path], tmp_path: Path
) -> None:
    def stage(**data: str) -> tuple[int, HeldOut]:
        changes = {**own, "data": {**own["data"], **data}, "output_dir": str(tmp_path)}
        built = build_stage("stage1", workshop.config("stage1", **stage1(workshop, **changes)))
        assert isinstance(built.objective, EncoderObjective)
        return len(built.samples), built.objective.held_out

    count, held_out = stage()
    assert (count, len(held_out)) == (TRAINED, HELD_OUT)
    for number, image in enumerate(held_out.images, start=TRAINED):
        assert np.array_equal(image, decoder_pixels(sample(number).picture(), 64))
    count, apart = stage(validation_set=str(sets["parquet"]))
    # One of the first four does not decode and is left out.
    assert (count, len(apart)) == (COUNT, HELD_OUT - 1)
    with pytest.raises(ConfigError, match=r"of which validation_count \(24\) would be held out"):
        own["validation_count"] = COUNT
        stage()


def test_an_encoder_with_larger_pictures_than_the_decoder_sees_the_enlarged_crop(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path
) -> None:
    """The paper's case: 384 px for the VAE, 768 px for Florence-2."""
    model = VLV.from_pretrained(workshop.root / "s1" / "final")
    model.decoder.image_size = 32
    folder = tmp_path / "model"
    VLV.from_boxes(
        encoder=model.encoder, text_tower=model.text_tower, decoder=model.decoder
    ).save_pretrained(folder)
    changes = {**own, "output_dir": str(tmp_path / "run"), "validation_steps": 1}
    final = workshop.run(
        "stage1",
        **stage1(workshop, **changes, gradient_checkpointing=True) | {"initial_model": str(folder)},
    )
    trained = VLV.from_pretrained(final)
    config = workshop.config(
        "stage1", **stage1(workshop, **changes) | {"initial_model": str(final)}
    )
    stage = build_stage("stage1", config)
    objective: Any = stage.objective
    item = stage.samples.item(0, 0)
    assert item["image"].shape == (32, 32, 3)
    assert "encoder_image" not in item
    in_training = objective.encoder.preprocess_uint8(item["image"][None])
    in_use = trained.encoder.preprocess([sample(0).picture()])
    assert torch.equal(in_training, in_use)


def test_a_run_on_images_that_was_killed_ends_bit_identical(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path
) -> None:
    steps = 10

    def changes(name: str) -> dict[str, Any]:
        return stage1(
            workshop,
            **own,
            output_dir=str(tmp_path / name),
            max_train_steps=steps,
            train_batch_size=2,
            gradient_accumulation_steps=2,
            mixed_precision="bf16",
            frozen_dtype="bf16",
            use_ema=True,
            checkpointing_steps=3,
            validation_steps=1000,
        )

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start("stage1", workshop.config("stage1", **changes("killed")))
    wait_for_checkpoint(killed, process)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    workshop.run("stage1", **changes("killed"))
    workshop.run("stage1", **changes("whole"))
    (state, losses), (expected, expected_losses) = (whole_state(f, steps) for f in (killed, whole))
    assert losses == expected_losses
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []
    counts = [read_checkpoint(list_checkpoints(at)[-1])[1]["counts"] for at in (killed, whole)]
    assert counts[0] == counts[1] == {"refused": refused_until(4 * steps)}


def test_a_run_does_not_go_on_with_other_images(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "set", "folder")
    changes = stage1(workshop, **own, output_dir=str(tmp_path / "run"))
    workshop.run("stage1", **{**changes, "data": {"set": str(folder)}})
    moved = folder.rename(tmp_path / "moved")
    workshop.run("stage1", **{**changes, "data": {"set": str(moved)}, "max_train_steps": 3})
    (moved / "another.png").write_bytes(sample(0).image)
    with pytest.raises(TrainingError, match="was made with other images"):
        workshop.run("stage1", **{**changes, "data": {"set": str(moved)}, "max_train_steps": 4})


def test_frozen_parts_in_bfloat16_are_written_as_they_were_read(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path
) -> None:
    final = workshop.run(
        "stage2",
        **own,
        stage1=str(workshop.root / "s1" / "final"),
        output_dir=str(tmp_path / "run"),
        trainable=["transformer", "psi"],
        mixed_precision="bf16",
        frozen_dtype="bf16",
        validation_steps=1,
    )
    source = workshop.root / "s1" / "final"
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_tower/model"):
        mine, theirs = (load_file(at / f"{name}.safetensors") for at in (final, source))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name
    mine, theirs = (load_file(at / "encoder" / "model.safetensors") for at in (final, source))
    assert mine.keys() == theirs.keys()
    assert {value.dtype for value in mine.values()} == {torch.float32}
    for key, value in theirs.items():
        if not key.startswith("language_model."):
            assert torch.equal(mine[key], value), key


def test_frozen_parts_take_half_the_room(workshop: Workshop, own: dict[str, Any]) -> None:
    changes = {"mixed_precision": "bf16", "frozen_dtype": "bf16", "trainable": ["psi"]}
    objective = build_stage("stage2", workshop.config("stage2", **own, **changes)).objective
    kinds = {p.dtype for p in objective.parameters() if not p.requires_grad and p.ndim > 1}
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in objective.parameters() if p.requires_grad} == {torch.float32}
    with pytest.raises(ConfigError, match="frozen_dtype: bf16 needs mixed_precision: bf16"):
        build_stage("stage2", workshop.config("stage2", **own, frozen_dtype="bf16"))


@pytest.mark.parametrize("name", ["stage1", "stage2"])
def test_checkpointed_gradients_are_the_same_gradients(
    workshop: Workshop, own: dict[str, Any], name: str
) -> None:
    changes = stage1(workshop, **own) if name == "stage1" else dict(own)
    gradients = []
    for switch in (None, True):
        config = workshop.config(name, **changes, gradient_checkpointing=switch)
        stage = build_stage(name, config)
        objective = stage.objective.train()
        batch = torch.utils.data.default_collate([stage.samples.item(i, i) for i in range(2)])
        counted = _Multiplications()
        with counted:
            loss, _ = objective(batch)
            loss.backward()
        gradients.append((counted.number, {n: p.grad for n, p in objective.trainable().items()}))
    (few, plain), (many, checkpointed) = gradients
    assert many > few * 1.15  # something was computed twice
    for key, gradient in plain.items():
        other = checkpointed[key]
        assert (gradient is None) == (other is None), key
        assert gradient is None or torch.equal(gradient, other), key  # type: ignore[arg-type]


class _Multiplications(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func in (
            torch.ops.aten.mm.default,
            torch.ops.aten.addmm.default,
            torch.ops.aten.bmm.default,
            torch.ops.aten.convolution.default,
        )
        return func(*args, **(kwargs or {}))


def test_stage1_trains_the_parts_that_trainable_names(
    workshop: Workshop, own: dict[str, Any], tmp_path: Path
) -> None:
    changes = stage1(workshop, **own, output_dir=str(tmp_path), trainable=["transformer", "phi"])
    final = workshop.run("stage1", **changes, learning_rate=0.1)
    before = load_file(workshop.root / "s1" / "final" / "encoder" / "model.safetensors")
    after = load_file(final / "encoder" / "model.safetensors")
    moved = {
        name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert moved == {"language_model"}
    heads = [
        load_file(at / "encoder" / "vlv_head.safetensors")
        for at in (workshop.root / "s1" / "final", final)
    ]
    still = {name for name in heads[0] if torch.equal(heads[0][name], heads[1][name])}
    assert still == {"queries"}


def test_a_stage_of_the_world_refuses_images_from_disk(
    workshop: Workshop, own: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="learns from the embedded world"):
        build_stage("vae", workshop.config("vae", **own))


def test_stage1_needs_an_origin(workshop: Workshop) -> None:
    with pytest.raises(ConfigError, match="set initial_model, or decoder"):
        build_stage("stage1", workshop.config("stage1", decoder=None))


def test_a_stage_s_encoder_crops_and_opening_pictures_changes_none(
    workshop: Workshop, own: dict[str, Any]
) -> None:
    stage = build_stage("stage1", workshop.config("stage1", **stage1(workshop, **own)))
    objective: Any = stage.objective
    assert objective.encoder.settings.crop_size == objective.decoder.image_size
    model = VLV.from_pretrained(workshop.root / "s1" / "final")
    before = model.encoder.settings
    open_images(stage.config, objective.image_size, captioned=False, denoises=True)
    assert model.encoder.settings == before and before.crop_size is None
