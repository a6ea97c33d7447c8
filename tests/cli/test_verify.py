"""`vlv verify`, and the checks of `vlv caption`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlv.cli.option_groups import CheckOptions, GenerationOptions
from vlv.data.world_sets import world_samples
from vlv.evaluation.ood_pictures import other_pictures
from vlv.inference.presets import preset
from vlv.pipeline import VLV

# The bundled model is given where its marks matter.
pytestmark = pytest.mark.usefixtures("quick_verifier")


@pytest.fixture
def quick_verifier(quick_verifier_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of all commands that name none."""
    monkeypatch.setenv("VLV_MODEL", str(quick_verifier_dir))


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Two held-out scenes; the caption file of the first is true, that of the second is not."""
    for number, seed in enumerate((11, 13)):
        (sample,) = world_samples(1, seed=seed, split="test")
        (tmp_path / f"{number}.png").write_bytes(sample.image)
        text = str(sample.caption)
        if number:
            floor = sample.meta["scene"]["floor"]
            text = text.replace(floor, "gray" if floor != "gray" else "brown")
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    return tmp_path


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_caption_files_are_checked_and_what_is_wrong_is_named(vlv: Callable, scenes: Path) -> None:
    ran = vlv("verify", scenes, "--caption-files", "--json", "--model", "vlv-mini")
    assert (ran.code, ran.err) == (0, "")
    good, bad = records(ran.out)
    assert all(one["supported"] for one in good["sentences"])
    (wrong,) = [one for one in bad["sentences"] if not one["supported"]]
    assert "floor" in wrong["text"]
    assert bad["text"][wrong["start"] : wrong["end"]] == wrong["text"]


def test_marks_are_printed_with_what_would_be_better(vlv: Callable, scenes: Path) -> None:
    caption = (scenes / "1.txt").read_text()
    ran = vlv("verify", scenes / "1.png", "--caption", caption)
    assert ran.code == 0
    name, *lines = ran.out.splitlines()
    assert name == str(scenes / "1.png")
    assert sum("UNSUPPORTED" in line for line in lines) == 1
    assert "error falls by" in ran.out


def test_a_bad_image_and_a_missing_caption_cost_themselves_alone(
    vlv: Callable, scenes: Path
) -> None:
    (scenes / "0.txt").unlink()
    (scenes / "2.png").write_text("no image")
    (scenes / "2.txt").write_text("A red cube.")
    ran = vlv("verify", scenes, "--caption-files", "--json")
    assert ran.code == 1
    reasons = {Path(one["file_name"]).name: one.get("error") for one in records(ran.out)}
    assert reasons == {"0.png": "no-caption", "1.png": None, "2.png": "unknown-format"}


def test_the_report_shows_pictures_and_marks(vlv: Callable, scenes: Path) -> None:
    page = scenes / "report.html"
    ran = vlv("verify", scenes / "0.png", "--caption-files", "--report", page)
    assert ran.code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 4 and "http" not in text
    assert 'class="supported"' in text.partition("<section")[2]
    assert vlv("verify", scenes / "0.png", "--report", page).code == 2


def test_wrong_use_is_reported_before_any_work(
    vlv: Callable, scenes: Path, tiny_model_dir: Path
) -> None:
    assert "one image" in vlv("verify", scenes, "--caption", "A cube.").err
    ran = vlv("verify", scenes, "--caption-files", "--caption-extension", "caption")
    assert ran.code == 2 and "begins with a dot" in ran.err
    ran = vlv("verify", scenes, "--caption-extension", ".caption")
    assert ran.code == 2 and "--caption-files" in ran.err
    ran = vlv("verify", scenes / "0.png", "--model", tiny_model_dir)
    assert ran.code == 3 and "no verifier" in ran.err
    ran = vlv("caption", scenes / "0.png", "--best-of", 2, "--num-return-sequences", 2)
    assert ran.code == 2 and "--best-of" in ran.err
    ran = vlv("caption", scenes / "0.png", "--best-of", 2, "--num-beams", 2)
    assert ran.code == 2 and "leave out --num-beams 2" in ran.err
    ran = vlv("caption", scenes / "0.png", "--false-alarm-rate", 0.2)
    assert ran.code == 2 and "--verify or --drop-unsupported" in ran.err


def test_caption_marks_in_json_and_on_standard_error(vlv: Callable, scenes: Path) -> None:
    options = ("--verify", "--false-alarm-rate", 1, "--prepend", "photo,", "--json")
    ran = vlv("caption", scenes / "0.png", *options)
    assert ran.code == 0
    (one,) = records(ran.out)
    # At a rate of 1 every sentence is called unsupported.
    assert ran.err.count("vlv: unsupported: ") == len(one["sentences"])
    assert one["text"] == "photo, " + " ".join(s["text"] for s in one["sentences"])
    assert all(one["text"][s["start"] : s["end"]] == s["text"] for s in one["sentences"])


def test_unsupported_sentences_are_dropped_but_never_all(vlv: Callable, scenes: Path) -> None:
    image = scenes / "0.png"
    whole = vlv("caption", image).out.strip()
    kept = vlv("caption", image, "--drop-unsupported", "--false-alarm-rate", 1).out.strip()
    assert kept in whole and kept.count(".") == 1
    assert vlv("caption", image, "--drop-unsupported", "--false-alarm-rate", 0).out.strip() == whole


def test_the_best_of_several_samples_is_one_of_them(vlv: Callable, scenes: Path) -> None:
    image = scenes / "0.png"
    options = ("--temperature", 1, "--num-return-sequences", 3, "--json")
    (samples,) = records(vlv("caption", image, *options).out)
    (best,) = records(vlv("caption", image, "--best-of", 3, "--json").out)
    assert best["text"] in samples["texts"]
    assert "texts" not in best


def test_a_preset_with_beams_samples_without_them() -> None:
    settings = CheckOptions(best_of=8).sampling(GenerationOptions())
    authors = GenerationOptions().settings(preset("authors"), **settings)
    assert (authors.beams, authors.num_return_sequences, authors.samples) == (1, 8, True)


def test_what_is_said_of_the_best_sample_is_its_own(vlv: Callable, scenes: Path) -> None:
    tokenizer = VLV.from_pretrained("vlv-mini").caption_decoder.tokenizer
    options = ("--temperature", 1, "--seed", 1, "--json")
    first = records(vlv("caption", scenes, *options, "--num-return-sequences", 4).out)
    best = records(vlv("caption", scenes, *options, "--best-of", 4).out)
    assert [one["text"] for one in best] != [one["texts"][0] for one in first]
    lengths = [len(tokenizer(one["text"])["input_ids"]) for one in best]
    assert [one["tokens"] for one in best] == lengths


def test_nothing_checked_leaves_no_report(vlv: Callable, tmp_path: Path) -> None:
    ran = vlv("verify", tmp_path / "missing.png", "--report", tmp_path / "page.html")
    assert ran.code == 1 and not (tmp_path / "page.html").exists()
    (tmp_path / "a.png").touch()
    ran = vlv("verify", tmp_path / "a.png", "--caption", " ")
    assert ran.code == 2 and "--caption is empty" in ran.err


CAT = "A photo of a cat sleeping on a sofa."


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A picture that the model does not know."""
    place = tmp_path / "photos" / "cat.png"
    place.parent.mkdir()
    other_pictures()["photographs"]["chelsea"].save(place)
    return place


def test_a_sentence_of_other_things_is_not_judged_and_the_reason_is_reported(
    vlv: Callable, scenes: Path
) -> None:
    ran = vlv("verify", scenes / "0.png", "--caption", CAT)
    assert (ran.code, ran.err) == (0, "")
    _, mark, reason = ran.out.splitlines()
    assert mark.split() == ["CANNOT", "JUDGE", *CAT.split()]
    assert reason.strip().startswith("because: ") and '"photo", "cat"' in reason
    (record,) = records(vlv("verify", scenes / "0.png", "--caption", CAT, "--json").out)
    (one,) = record["sentences"]
    assert (one["verdict"], one["supported"], one["probability"]) == ("cannot_judge", None, None)
    assert "cat" in one["reason"] and record["in_distribution"] is True


def test_a_picture_of_other_things_is_flagged_and_its_caption_not_judged(
    vlv: Callable, photograph: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    giraffe = "A giraffe eats pizza on the moon. The floor is gray."
    ran = vlv("verify", photograph, "--caption", giraffe, "--json", "--report", page)
    assert ran.code == 0
    assert "1 picture is unlike" in ran.err and "cannot be judged" in ran.err
    (record,) = records(ran.out)
    assert record["in_distribution"] is False
    assert {one["verdict"] for one in record["sentences"]} == {"cannot_judge"}
    section = page.read_text(encoding="utf-8").partition("<section")[2]
    assert section.count('class="cannot_judge"') == 2 and "cannot be judged: " in section
    assert 'class="supported"' not in section and 'class="unsupported"' not in section


def test_captions_that_cannot_be_judged_are_neither_dropped_nor_called_supported(
    vlv: Callable, photograph: Path
) -> None:
    plain = vlv("caption", photograph).out.strip()
    ran = vlv("caption", photograph, "--drop-unsupported", "--verify", "--false-alarm-rate", 1)
    assert ran.out.strip() == plain
    assert ran.err.count("vlv: cannot judge: ") == plain.count(".")
    assert "vlv: unsupported: " not in ran.err
    best = vlv("caption", photograph, "--best-of", 2)
    assert best.code == 0 and best.out.strip()
