"""`vlv eval ood` on few scenes, and the figures that the documentation shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlv.evaluation.ood_pictures import other_pictures
from vlv.evaluation.results import from_json
from vlv.evaluation.tables.ood import OTHERS, SCENES, WANTED, OODConfig, evaluate

RECORDED = Path(__file__).resolve().parents[3] / "docs" / "ood.json"


def test_scenes_pass_and_other_pictures_do_not() -> None:
    result = evaluate(OODConfig(count=60, seed=5))
    scenes, others = result.row(pictures=SCENES), result.row(pictures=OTHERS)
    assert (scenes.count, others.count) == (60, sum(map(len, other_pictures().values())))
    assert scenes.figures["flagged"].value < 0.1
    assert others.figures["flagged"].value > WANTED
    assert result.row(pictures="scenes, inverted").figures["flagged"].value > 0.9


def test_the_recorded_figures_are_what_so_many_pictures_can_show() -> None:
    recorded = from_json(json.loads(RECORDED.read_text("utf-8")))
    assert recorded.row(pictures=SCENES).count == 1000
    others = recorded.row(pictures=OTHERS)
    assert others.count >= 50 and others.figures["flagged"].value == 1
    # That all of 52 are flagged leaves a share below 95% possible.
    assert [claim.verdict for claim in recorded.claims] == ["confirmed", "unconfirmed"]


def test_a_model_without_a_detector_is_refused(vlv: Callable[..., Any], tmp_path: Path) -> None:
    ran = vlv("eval", "ood", "model=vlv-mini-stage1", "--output", tmp_path / "out.json")
    assert ran.code == 2
    assert "has no OOD detector" in ran.err
