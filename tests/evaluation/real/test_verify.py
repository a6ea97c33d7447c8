"""`vlv eval verify SET`: marks of the bundled model against labels, and what they are worth."""

import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.real.photographs import photograph

from vlv.data.world_sets import world_samples
from vlv.errors import DatasetError
from vlv.evaluation.real.sentence_marks import OTHER, OWN
from vlv.evaluation.real.sentence_result import CONTROL, OUR_SCORE, sentence_result
from vlv.evaluation.results import Result, read_result
from vlv.sentences import split_sentences

CAT = "A photo of a cat sleeping on a sofa."


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two held-out scenes, a photograph and labels; two sentences are false, one of the cat's."""
    folder = tmp_path / "set"
    folder.mkdir()
    lines: list[dict[str, Any]] = []
    for number, seed in enumerate((11, 13)):
        (sample,) = world_samples(1, seed=seed, split="test")
        (folder / f"{number}.png").write_bytes(sample.image)
        text = str(sample.caption)
        floor = sample.meta["scene"]["floor"]
        other = "gray" if floor != "gray" else "brown"
        if number:
            text = text.replace(floor, other)
        lines.append(
            {
                "file_name": f"{number}.png",
                "sentences": [
                    {"text": one, "factual": not (number and other in one)}
                    for one in split_sentences(text)
                ],
            }
        )
    photograph("chelsea").save(folder / "cat.png")
    lines.append({"file_name": "cat.png", "text": CAT, "wrong": ["sleeping"]})
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return tmp_path


def command(folder: Path, *more: object) -> list[object]:
    return [
        *("eval", "verify", folder / "set", "--labels", folder / "labels.jsonl"),
        *("--output", folder / "out", "--json", *more),
    ]


def test_wrong_sentences_score_higher_and_what_cannot_be_judged_is_refused(
    vlv: Callable, labelled: Path, quick_verifier_dir: Path
) -> None:
    options = ("--others", 1, "--model", quick_verifier_dir)
    with (labelled / "labels.jsonl").open("a") as file:
        file.write('{"file_name": "gone.png", "text": "A cube.", "factual": true}\n')
        file.write('{"file_name": "0.png", "text": "", "factual": true}\n')
    ran = vlv(*command(labelled, *options))
    assert ran.code == 1
    assert "gone.png has labels and is not in the set" in ran.err
    assert "line 5" in ran.err and "no words" in ran.err
    result = read_result(labelled / "out" / "result.json")
    assert json.loads(ran.out)["rows"][0]["count"] == result.row(part="marks").count
    assert result.row(part="scores", score=OUR_SCORE).figures["auroc_judged"].value == 1
    marks = result.row(part="marks").figures
    assert marks["detected"].value == 0.5  # the other is of the photograph
    lines = [json.loads(line) for line in (labelled / "out" / "marks.jsonl").open()]
    cat = next(one for one in lines if one["file_name"] == "cat.png" and one["at"] == OWN)
    assert [mark["judged"] for mark in cat["sentences"]] == [False]
    assert math.isfinite(cat["sentences"][0]["gain_unrefused"])
    # At another image, hardly anything that is not true there passes for supported.
    at_others = result.row(**{"part": "verdicts by image", "captions at": OTHER}).figures
    own = result.row(**{"part": "verdicts by image", "captions at": OWN}).figures
    assert at_others["supported"].value < own["supported"].value
    page = (labelled / "out" / "marks.html").read_text()
    assert "False sentences with the lowest scores" in page and "cannot judge: " in page
    assert page.count("data:image/jpeg;base64,") >= 3 and "<script" not in page
    # The same command judges nothing again; another model's marks do not come in between.
    before = (labelled / "out" / "marks.jsonl").read_bytes()
    with (labelled / "out" / "marks.jsonl").open("ab") as torn:
        torn.write(b'{"key": "torn')
    again = vlv(*command(labelled, *options))
    assert (labelled / "out" / "marks.jsonl").read_bytes() == before
    assert json.loads(again.out)["rows"] == json.loads(ran.out)["rows"]
    # Labels that are corrected count, and nothing is judged again.
    corrected = (labelled / "labels.jsonl").read_text().replace("false", "true")
    (labelled / "labels.jsonl").write_text(corrected)
    assert "judged sentences is undefined: all 4" in " ".join(
        json.loads(vlv(*command(labelled, *options)).out)["notes"]
    )
    assert (labelled / "out" / "marks.jsonl").read_bytes() == before
    # A picture that was replaced under its name is judged again, and the others are not.
    photograph("coffee").save(labelled / "set" / "1.png")
    vlv(*command(labelled, *options))
    after = [json.loads(line) for line in (labelled / "out" / "marks.jsonl").open()]
    assert len(after) == len(lines)
    assert [one for one in after if one not in lines] == [
        one for one in after if (one["file_name"], one["at"]) == ("1.png", OWN)
    ]


def test_labels_of_one_kind_and_refused_pictures_are_said_to_show_nothing(
    vlv: Callable, labelled: Path
) -> None:
    """In a shard, whose images labels name without it."""
    with tarfile.open(labelled / "shard.tar", "w") as shard:
        shard.add(labelled / "set" / "cat.png", "cat.png")
    (labelled / "labels.jsonl").write_text(
        json.dumps({"file_name": "cat.png", "text": CAT, "factual": True}) + "\n"
    )
    words = command(labelled)
    words[2] = labelled / "shard.tar"
    ran = vlv(*words)
    assert ran.code == 0, ran.err
    notes = " ".join(json.loads(ran.out)["notes"])
    assert "AUROC of labelled sentences is undefined: all 1 of them are labelled true" in notes
    assert "judged none of the 1 labelled sentences" in notes
    scores = [row for row in json.loads(ran.out)["rows"] if row["labels"]["part"] == "scores"]
    assert all(row["figures"]["auroc_all"]["value"] is None for row in scores)


def test_wrong_use_is_one_sentence(vlv: Callable, labelled: Path, tiny_model_dir: Path) -> None:
    assert "--labels FILE" in vlv("eval", "verify", labelled / "set").err
    for option in ("--labels", "--model"):
        ran = vlv("eval", "verify", option, labelled / "labels.jsonl")
        assert ran.code == 2 and f"{option} needs a set of real images" in ran.err
    ran = vlv("eval", "verify", "counts=3")
    assert ran.code == 2 and "count" in ran.err
    ran = vlv(*command(labelled, "--model", tiny_model_dir))
    assert ran.code == 3 and "no verifier" in ran.err
    (labelled / "labels.jsonl").write_text('{"file_name": "x.png", "text": "A.", "factual": true}')
    ran = vlv(*command(labelled))
    assert ran.code == 1 and "has labelled sentences" in ran.err and "x.png" in ran.err


def records(images: int, false_share: float = 0.3, judged: bool = True) -> list[dict[str, Any]]:
    """Marks of four sentences an image; a false one has a larger gain, on the whole."""
    rng = np.random.default_rng(0)
    found = []
    for image in range(images):
        sentences = []
        for _ in range(4):
            true = bool(rng.random() >= false_share)
            gain = float(rng.exponential(0.01 if true else 0.05))
            mark = {"gain": gain, "alarm_rate": math.exp(-gain / 0.005), "probability": 0.7}
            sentences.append(
                {
                    "text": "A sentence.",
                    "true": true,
                    "judged": judged,
                    **(mark if judged else {"reason": "unlike"}),
                    "gain_unrefused": gain,
                    "mean_likelihood": -1.0,
                    "least_likelihood": float(rng.normal()),
                }
            )
        about = {"key": str(image), "file_name": f"{image}.png", "captioner": "", "at": OWN}
        found.append({**about, "sentences": sentences})
    return found


def result_of(marks: list[dict[str, Any]]) -> Result:
    return sentence_result(marks, false_alarm_rate=0.05, provenance={})


def test_control_reaches_the_rate_that_the_verifier_misses() -> None:
    """The verifier was fitted where true sentences have half the gains: it calls too many false."""
    result = result_of(records(600))
    for rate in (0.05, 0.1, 0.2):
        row = result.row(**{"part": CONTROL, "rate asked": rate})
        reached = row.figures["false_alarms"]
        assert reached.value == pytest.approx(rate, abs=0.03)
        assert reached.low < reached.value < reached.high
        assert row.figures["own_rate"].value > rate + 0.08
        assert 700 < row.count < 980 and row.figures["calibrated_on"].value > 700
    scores = result.row(part="scores", score=OUR_SCORE).figures
    assert scores["auroc_judged"].value == pytest.approx(5 / 6, abs=0.03)
    assert scores["auroc_judged"] == scores["auroc_all"]
    constant = result.row(part="scores", score="language model: mean").figures
    assert constant["auroc_all"].value == 0.5
    # 70% are true, and the mark says 70%.
    error = result.row(part="calibration").figures["ece"]
    assert error.value < 0.03 and error.high < 0.06


def test_few_true_sentences_allow_no_small_rate_and_say_so() -> None:
    result = result_of(records(8))
    row = result.row(**{"part": CONTROL, "rate asked": 0.01})
    assert row.figures["threshold"].value == math.inf
    assert row.figures["false_alarms"].value == row.figures["detected"].value == 0
    # The four images that were held out leave much possible.
    assert row.figures["false_alarms"].high == pytest.approx(1 - 0.025 ** (1 / 4))


def test_nothing_is_computed_from_what_was_not_judged() -> None:
    result = result_of(records(5, judged=False))
    assert not {"reliability", "calibration", CONTROL} & {row.labels["part"] for row in result.rows}
    figures = result.row(part="scores", score=OUR_SCORE).figures
    assert math.isnan(figures["auroc_judged"].value) and figures["auroc_all"].value > 0.5
    assert any("judged none of the 20" in note for note in result.notes)
    unlabelled = records(2)
    for one in unlabelled:
        one["sentences"] = [{**mark, "true": None} for mark in one["sentences"]]
    with pytest.raises(DatasetError, match="no sentence of 2 images has a label; raise --limit"):
        result_of(unlabelled)
    only_true = result_of(records(5, false_share=0))
    assert math.isnan(only_true.row(part="scores", score=OUR_SCORE).figures["auroc_all"].value)
