"""`vlv world render`."""

import typing
from collections.abc import Callable
from pathlib import Path

from tests.data.scene_records import read_scenes

from vlv.cli.world import render
from vlv.data.sets import FORMATS, read_set
from vlv.data.world_sets import world_samples
from vlv.world.scene import SPLITS


def test_render_writes_images_captions_and_scenes(tmp_path: Path, vlv: Callable) -> None:
    for format in FORMATS:
        out = tmp_path / format
        ran = vlv(
            *(
                "world",
                "render",
                "--count",
                4,
                "--seed",
                5,
                "--out",
                out,
                "--split",
                "unseen-pairs",
            ),
            *("--format", format, "--shard_size", 3, "--workers", 1),
        )
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == f"{out}: 4 scenes of split unseen-pairs, seed 5, format {format}\n"
        expected = list(world_samples(4, seed=5, split="unseen-pairs"))
        assert [s.image for s in read_set(out)] == [s.image for s in expected]
        assert [r["caption"] for r in read_scenes(out)] == [s.caption for s in expected]


def test_what_exists_is_kept(tmp_path: Path, vlv: Callable) -> None:
    out = tmp_path / "set"
    assert vlv("world", "render", "--count", 2, "--out", out).code == 0
    refused = vlv("world", "render", "--count", 1, "--out", out)
    assert refused.code == 2
    assert refused.err.startswith(f"vlv: {out} exists already")
    assert vlv("world", "render", "--count", 1, "--out", out, "--overwrite").code == 0
    assert len(list(read_set(out))) == 1


def test_wrong_values_are_wrong_use(tmp_path: Path, vlv: Callable) -> None:
    for option, value in (("--split", "moon"), ("--format", "zip"), ("--count", 0)):
        ran = vlv("world", "render", "--out", tmp_path / "set", option, value)
        assert ran.code == 2
        assert option in ran.err


def test_choices_are_those_of_the_rooms() -> None:
    hints = typing.get_type_hints(render)
    assert typing.get_args(hints["split"]) == SPLITS
    assert typing.get_args(hints["format"]) == FORMATS
