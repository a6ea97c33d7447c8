"""Sets of the embedded world: the same for the same seed, and true."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.data.scene_records import read_scenes

from vlv.data.sets import FORMATS, read_set
from vlv.data.world_sets import SEED_STRIDE, render_world, world_samples
from vlv.errors import ConfigError, WorldError
from vlv.world.render import render
from vlv.world.scene import SPLITS, Scene, sample_scene


def test_pictures_captions_and_records_belong_together() -> None:
    for split in SPLITS:
        for index, sample in enumerate(world_samples(3, seed=2, split=split)):
            seed = 2 * SEED_STRIDE + index
            scene = sample_scene(seed, split)
            np.testing.assert_array_equal(np.asarray(sample.picture()), render(scene))
            assert (sample.meta["seed"], sample.meta["split"]) == (seed, split)
            assert sample.meta["caption"] == sample.caption
            assert sample.meta["file_name"] == sample.file_name == f"{index:09d}.png"
            assert Scene.from_dict(sample.meta["scene"]) == scene


def test_processes_do_not_change_anything() -> None:
    alone = list(world_samples(150, seed=1))
    assert list(world_samples(150, seed=1, workers=2)) == alone
    assert list(world_samples(10, seed=1)) == alone[:10]


def test_seeds_and_splits_share_no_picture() -> None:
    sets = [(seed, split) for seed in (0, 1) for split in ("train", "test")]
    images = [s.image for seed, split in sets for s in world_samples(5, seed=seed, split=split)]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("format", FORMATS)
def test_rendered_sets_carry_their_scenes(tmp_path: Path, format: str) -> None:
    out = tmp_path / "set"
    assert render_world(world_samples(5), out, format=format, shard_size=2) == 5
    records = list(read_scenes(out))
    assert records == [json.loads(json.dumps(s.meta)) for s in world_samples(5)]
    assert list(records[0]) == ["file_name", "seed", "split", "caption", "scene"]
    back = list(read_set(out))
    assert [(s.key, s.image, s.caption) for s in back] == [
        (s.key, s.image, s.caption) for s in world_samples(5)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    out = tmp_path / "set"
    render_world(world_samples(2), out)
    with pytest.raises(ConfigError, match="exists already"):
        render_world(world_samples(1), out)
    assert len(list(read_set(out))) == 2
    render_world(world_samples(1), out, overwrite=True)
    assert len(list(read_set(out))) == 1


def test_only_sets_are_overwritten(tmp_path: Path) -> None:
    render_world(world_samples(1), tmp_path / "set")
    for format in FORMATS:  # one after another, and work beside the last one
        render_world(world_samples(1), tmp_path / "set", format=format, overwrite=True)
    (tmp_path / "set" / "work.txt").write_text("mine")
    before = sorted(path.name for path in (tmp_path / "set").iterdir())
    with pytest.raises(ConfigError, match=r"also holds work\.txt, which is no file of such a set"):
        render_world(world_samples(1), tmp_path / "set", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == before
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "00000.tar").write_bytes(b"of somebody else")
    with pytest.raises(ConfigError, match=r"holds no scenes\.jsonl"):
        render_world(world_samples(1), tmp_path / "photographs", overwrite=True)
    assert (tmp_path / "photographs" / "00000.tar").read_bytes() == b"of somebody else"


def test_a_set_that_fails_leaves_nothing_and_spares_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "set"
    render_world(world_samples(2), out)

    def failing() -> object:
        yield from world_samples(1)
        raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError, match="the power fails"):
        render_world(failing(), out, overwrite=True)  # type: ignore[arg-type]
    assert len(list(read_set(out))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"count": 1, "split": "moon"}, "unknown split 'moon'"),
        ({"count": SEED_STRIDE + 1}, "up to 1000000 scenes"),
        ({"count": 1, "seed": -1}, "0 or more"),
    ],
)
def test_impossible_sets_are_refused(arguments: dict[str, object], problem: str) -> None:
    with pytest.raises(WorldError, match=problem):
        next(world_samples(**arguments))  # type: ignore[arg-type]
