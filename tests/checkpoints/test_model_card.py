"""Model cards say what a model knows, by what its folder records of its training."""

from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_model_dir

from vlv import VLV
from vlv.checkpoints.model_card import knowledge_of, what_it_knows

__all__ = ["tiny_model_dir"]

WORLD = {"folder": "runs/world", "count": 8}
PARTS = {"encoder": {"id": "microsoft/Florence-2-large"}, "decoder": {"id": "/home/me/sd"}}


def run(data: dict[str, Any], seen: int, before: Any = None) -> dict[str, Any]:
    made = {"config": {"data": data}, "steps": 1, "samples_seen": seen}
    return made | ({} if before is None else {"before": before})


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        ({"stages": {"stage1": run(WORLD, 8), "stage2": run(WORLD, 8)}}, "cannot caption photo"),
        (
            {
                "parts": PARTS,
                "stages": {"vae": run(WORLD, 9), "stage1": run({"set": "/a/coco"}, 8)},
            },
            "what its published parts know (`microsoft/Florence-2-large`, `sd`), and the images "
            "of `coco` (8 seen in `stage1`).",
        ),
        (
            {
                "stages": {
                    "stage1": run({"set": "a"}, 1000, run(WORLD, 500)),
                    "stage2": run(WORLD, 2),
                }
            },
            "the images of `a` (1,500 seen in `stage1`), rendered scenes of simple shapes (2 seen",
        ),
        ({"stages": {"stage1": run({"set": "**odd**\n## set"}, 1)}}, "the images of `odd"),
        ({"stages": {"stage1": {"steps": 3}}}, "images that are not recorded (0 seen"),
        ({"parts": PARTS}, "It knows only what its published parts know"),
        ({"parts": PARTS, "authors_checkpoint": {}}, "the images that its authors trained it on"),
        ({}, "that `vlv.json` does not record"),
    ],
)
def test_knowledge_is_what_was_trained_on(provenance: dict[str, Any], said: str) -> None:
    knows = what_it_knows(provenance)
    assert knows.startswith("It knows ") and said in knows
    assert "\n" not in knows
    assert knowledge_of(f"# A model\n\n**{knows}**\n\nMore.\n") == knows


def test_a_saved_model_says_what_it_knows(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = VLV.from_pretrained(tiny_model_dir)
    model.manifest.provenance["stages"] = {"stage1": run({"set": "holidays"}, 40)}
    model.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert knowledge_of(card) == "It knows the images of `holidays` (40 seen in `stage1`)."
