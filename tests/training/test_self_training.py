"""Self-training at tiny size: what is kept, what trains, what a killed process leaves behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.training.conftest import Workshop, kill_while_writing, weights

from vlv.errors import ConfigError, TrainingError, VLVError
from vlv.pipeline import VLV
from vlv.training.config import check_config
from vlv.training.samples.pseudo_captions import read_pseudo_captions
from vlv.training.selection import by_decoder, by_likelihood, by_picture, by_truth
from vlv.training.self_training import RECORD, SelfTrainingConfig, self_train
from vlv.world.language import short_caption
from vlv.world.render import render
from vlv.world.scene import sample_scene

FIRST = 500


@pytest.fixture
def fields(workshop: Workshop, tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / "run"),
        "start": str(workshop.root / "s2" / "final"),
        "data": {
            "folder": str(workshop.root / "world"),
            "count": 64,
            "workers": 1,
            "first_seed": FIRST,
        },
        "pairs": 3,
        "rounds": 2,
        "images": 20,
        "samples": 3,
        "num_threads": 1,
        "stage2": {
            "max_train_steps": 2,
            "train_batch_size": 4,
            "learning_rate": 1.0e-2,
            "validation_count": 4,
            "max_tokens": 24,
            "validation_picture": False,
        },
    }


def trained(fields: dict[str, Any], **changes: Any) -> Path:
    return self_train(check_config(SelfTrainingConfig, {**fields, **changes}, "here"))


def test_rounds_train_the_caption_decoder_alone_on_what_it_wrote(fields: dict[str, Any]) -> None:
    final = trained(fields)
    run = Path(fields["output_dir"])
    before, after = weights(Path(fields["start"])), weights(final)
    moved = {name.split("/")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"caption_decoder"}
    assert VLV.from_pretrained(final).caption(Image.fromarray(render(sample_scene(1, "test"))))

    first, second = (
        read_pseudo_captions(run / f"pseudo-captions-{number}.jsonl") for number in (1, 2)
    )
    for captions in (first, second):
        assert [one.index for one in captions[:3]] == [0, 1, 2]
        assert all(one.pair for one in captions[:3]) and not any(one.pair for one in captions[3:])
        # The pairs' own captions, the same in every round.
        for one in captions[:3]:
            scene, words = sample_scene(FIRST + one.index, "train"), FIRST + one.index
            assert one.caption == short_caption(scene, np.random.default_rng(words))
    # Every round has pictures of its own, none of a pair.
    seen = [one.index for captions in (first, second) for one in captions[3:]]
    assert len(set(seen)) == 40 and min(seen) >= 3

    record = json.loads((final / RECORD).read_text())
    assert [one["images"] for one in record["rounds"]] == [20, 20]
    assert record["rounds"][0]["gain"] > 0
    assert record["rounds"][0]["sampled_words"] > 0


def test_the_decoder_keeps_what_it_denoises_the_picture_best_under(fields: dict[str, Any]) -> None:
    by_chance = trained(fields, selector="random", rounds=1, output_dir=fields["output_dir"] + "-r")
    final = trained(fields, rounds=1)
    model = VLV.from_pretrained(fields["start"])
    chosen = read_pseudo_captions(final.parent / "pseudo-captions-1.jsonl")[3:]
    first = read_pseudo_captions(by_chance.parent / "pseudo-captions-1.jsonl")[3:]
    better = 0
    for mine, other in zip(chosen, first, strict=True):
        assert mine.index == other.index
        picture = Image.fromarray(render(sample_scene(FIRST + mine.index, "train")))
        kept, sampled = by_decoder(model, picture, [mine.caption, other.caption])
        assert kept == pytest.approx(mine.score, rel=1e-3)
        assert kept >= sampled - 1e-6
        better += kept > sampled
    assert better > 0


def test_other_selectors() -> None:
    scene = sample_scene(7, "test")
    true, model = short_caption(scene, np.random.default_rng(0)), VLV.from_pretrained("vlv-mini")
    empty = "A room."
    truth = by_truth(scene, [true, empty, true.split(". ")[0] + "."])
    assert truth[0] > truth[2] > truth[1]
    z = model.encode(Image.fromarray(render(scene)))
    likely = by_likelihood(model, z, [true, "Floor the gray cube a. Of of."])
    assert likely[0] > likely[1]
    assert all(score < 0 for score in likely)
    small = short_caption(sample_scene(8, "test"), np.random.default_rng(0))
    drawn = by_picture(model, z, [true, small])
    assert 0 > drawn[0] > drawn[1]


@pytest.mark.slow
def test_a_killed_process_leaves_captions_that_go_on_to_the_same(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    fields |= {"rounds": 1, "images": 20}
    clean = trained(fields)
    killed = {**fields, "output_dir": str(tmp_path / "killed")}
    config = tmp_path / "killed.yaml"
    config.write_text(yaml.safe_dump(killed))
    command = ["train", "self-training", "--config", str(config)]
    kill_while_writing(command, tmp_path / "killed" / "pseudo-captions-1.unfinished")
    final = trained(killed)
    one, other = (folder.parent / "pseudo-captions-1.jsonl" for folder in (clean, final))
    assert one.read_bytes() == other.read_bytes()
    for name, value in weights(clean).items():
        assert torch.equal(value, weights(final)[name]), name


def test_pictures_on_disk_and_one_that_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(9):
        scene = sample_scene(number, "train")
        Image.fromarray(render(scene)).save(photos / f"{number}.png")
        if number < 3:
            (photos / f"{number}.txt").write_text(f"Picture {number} of three.")
    (photos / "5.png").write_bytes(b"no picture")
    data = {"set": str(photos), "index_folder": str(tmp_path / "indexes")}
    stage2 = {**fields["stage2"], "validation_count": 1}
    final = trained(fields, data=data, images=5, rounds=1, stage2=stage2)
    captions = read_pseudo_captions(final.parent / "pseudo-captions-1.jsonl")
    assert [one.caption for one in captions[:3]] == [f"Picture {n} of three." for n in range(3)]
    refused = {one.index for one in captions if not one.caption}
    assert refused == {5}
    assert json.loads((final / RECORD).read_text())["rounds"][0]["refused"] == 1
    # The file knows pictures by number: with another before them, all captions would be shifted.
    Image.new("RGB", (64, 64)).save(photos / "00.png")
    with pytest.raises(ConfigError, match="holds captions of other images than data names now"):
        trained(fields, data=data, images=5, rounds=2, stage2=stage2)


@pytest.mark.parametrize(
    "line", [b"[1]", b"{", b'{"index": "x", "caption": "", "pair": true}', b"\xff\xfe", b"[" * 9000]
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "pseudo-captions-1.jsonl"
    path.write_bytes(b'{"index": 0, "caption": "A cube.", "pair": true}\n' + line + b"\n")
    with pytest.raises(TrainingError, match=r"line 2 of .*pseudo-captions-1\.jsonl"):
        read_pseudo_captions(path)


def test_a_damaged_config_of_a_run_is_named(fields: dict[str, Any]) -> None:
    Path(fields["output_dir"]).mkdir()
    (Path(fields["output_dir"]) / "config.json").write_text("[" * 5000)
    with pytest.raises(ConfigError, match=r"config\.json is JSON of more than 64 levels"):
        trained(fields)


def test_rounds_are_added_and_another_run_is_refused(fields: dict[str, Any]) -> None:
    trained(fields, rounds=1)
    written = Path(fields["output_dir"]) / "pseudo-captions-1.jsonl"
    before = written.stat().st_mtime_ns
    final = trained(fields, rounds=2)
    assert len(json.loads((final / RECORD).read_text())["rounds"]) == 2
    assert written.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="other values of samples"):
        trained(fields, samples=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 64}, "none is left for the model to caption"),
        ({"stage2": {"captioner": "here"}}, "stage2 cannot set caption_decoder"),
        ({"data": {"set": "photos"}, "selector": "truth"}, "needs the embedded world"),
        ({"stage2": {"max_train_step": 2}}, "did you mean max_train_steps"),
    ],
)
def test_what_cannot_be_is_refused(
    fields: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(VLVError, match=message):
        trained(fields, **changes)
    # Nothing is left that would hinder the config that is right.
    assert {path.name for path in Path(fields["output_dir"]).glob("*")} <= {".lock"}
