"""The captions that a fine-tune learns from, and what is said of a set that does not work."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from tests.tiny import plain
from tests.training.finetuning.conftest import QUICK

from vlv.checkpoints.boxes import add_ood_detector
from vlv.checkpoints.opening import load_model
from vlv.data.samples import Sample
from vlv.data.sets import write_set
from vlv.errors import ConfigError, DatasetError, TrainingError
from vlv.models.ood import OODDetector, picture_features
from vlv.text import begun_with
from vlv.training.finetuning import conditionings, memory, plan
from vlv.training.finetuning.config import held_out_count
from vlv.training.finetuning.objective import FinetuneObjective
from vlv.training.finetuning.pictures import CaptionedPicture, Pictures, look_over, thinned


def looked(path: Path, first_line: bool = False, trigger: str = "") -> Pictures:
    index = path.parent / "index"
    return look_over(
        path, index, first_line=first_line, trigger=trigger, watch=lambda items, *_: items
    )


def written(folder: Path, captions: dict[str, str]) -> Path:
    folder.mkdir()
    for name, caption in captions.items():
        plain("red").save(folder / f"{name}.png")
        if caption:
            (folder / f"{name}.txt").write_text(caption)
    return folder


def test_all_lines_are_captions_unless_only_the_first_is(tmp_path: Path) -> None:
    folder = written(tmp_path / "set", {"a": "one\ntwo\n", "b": "three"})
    assert [one.captions for one in looked(folder).good] == [("one", "two"), ("three",)]
    assert [one.captions for one in looked(folder, True).good] == [("one",), ("three",)]


def test_lists_in_metadata_are_several_captions(tmp_path: Path) -> None:
    folder = written(tmp_path / "set", {"a": "", "b": "", "c": "", "d": ""})
    entries = {
        "a": {"text": ["one", "two"]},
        "b": {"text": "", "caption": ["three", "four"]},
        "c": {"caption": {"en": "five"}},
        "d": {"prompt": "six"},
    }
    lines = [json.dumps({"file_name": f"{key}.png", **one}) for key, one in entries.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    found = looked(folder)
    assert [one.captions for one in found.good] == [("one", "two"), ("three", "four")]
    assert found.without == ["d.png"]
    assert "the caption of c.png" in found.refused[0] and "is no text but dict" in found.refused[0]


def test_captions_come_in_every_layout(tmp_path: Path) -> None:
    bare = written(tmp_path / "bare", {"a": "", "b": ""})
    expected = [("a", ("one",)), ("b", ("two",))]

    def found(path: Path) -> list[tuple[str, tuple[str, ...]]]:
        return [(Path(one.name).stem, one.captions) for one in looked(path).good]

    kohya = {str(bare / "a"): {"caption": "one"}, "b.png": {"tags": "two"}}
    (bare / "meta.json").write_text(json.dumps(kohya))
    assert found(bare) == found(bare / "meta.json") == expected
    (bare / "meta.json").write_text(json.dumps({"a.png": "one", "b.png": {"tags": ["x", "y z"]}}))
    assert found(bare / "meta.json") == [("a", ("one",)), ("b", ("x, y z",))]
    (bare / "meta.json").write_text(json.dumps({"a.png": "one", "b.png": "two"}))
    assert found(bare / "meta.json") == expected
    (bare / "meta.json").unlink()
    lines = [{"file_name": "a.png", "text": "one"}, {"file_name": "b.png", "text": "two"}]
    (bare / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert found(bare) == found(bare / "metadata.jsonl") == expected
    image = (bare / "a.png").read_bytes()
    samples = [Sample(key, image, ".png", text) for key, text in (("a", "one"), ("b", "two"))]
    for format in ("webdataset", "parquet"):
        write_set(samples, tmp_path / format, format=format)
        assert [one.captions for one in looked(tmp_path / format).good] == [("one",), ("two",)]


@pytest.mark.parametrize(
    "other", [{"model_type": "florence2"}, {"model": {"width": 1}}, {"steps": 3}, {}, ["a.png"]]
)
def test_a_json_of_something_else_is_not_read(tmp_path: Path, other: object) -> None:
    bare = written(tmp_path / "bare", {"a": "", "b": ""})
    (bare / "config.json").write_text(json.dumps(other))
    with pytest.raises(
        DatasetError, match=r"none of the 2 pictures .* put a text file beside each"
    ):
        looked(bare)
    # One of captions is, wherever its pictures were.
    (bare / "config.json").write_text('{"/elsewhere/a.png": {"caption": "one"}}')
    with pytest.raises(DatasetError, match=r"names /elsewhere/a\.png, which is not there"):
        looked(bare)


def test_a_bad_entry_of_a_json_of_captions_costs_itself(tmp_path: Path) -> None:
    bare = written(tmp_path / "bare", dict.fromkeys("abcde", ""))
    captions = {
        "a": {"caption": ["one", "two\nthree"]},
        "b": {"caption": "four"},
        "c": {"caption": {"en": "five"}},
        "d": 6,
        "e": {"caption": ["seven", 8]},
    }
    (bare / "meta.json").write_text(json.dumps(captions))
    for path in (bare, bare / "meta.json"):
        found = looked(path)
        assert [one.captions for one in found.good] == [("one", "two", "three"), ("four",)]
        assert found.refused == [
            f"the caption of {name} in {bare / 'meta.json'} is no text but {kind}"
            for name, kind in (("c", "dict"), ("d", "int"), ("e", "list"))
        ]


def test_a_trigger_begins_every_caption_once() -> None:
    assert begun_with("ohwx", "A dog.") == "ohwx, A dog."
    assert begun_with("ohwx", "ohwx, A dog.") == "ohwx, A dog."
    assert begun_with("", "A dog.") == "A dog."


def test_caption_dropout_leaves_out_sentences_or_tags_but_never_the_first() -> None:
    sure, never = np.random.default_rng(0), 0.0
    assert thinned("ohwx, A dog. It runs. It barks.", 0.999, sure) == "ohwx, A dog."
    assert thinned("a dog, grass, sun", 0.999, sure) == "a dog"
    assert thinned("a dog, grass, sun", never, sure) == "a dog, grass, sun"
    kept = [thinned("One. Two. Three.", 0.5, sure).count(".") for _ in range(400)]
    assert np.mean(kept) == pytest.approx(2, abs=0.15)


def test_held_out_pictures_are_a_share_or_a_number() -> None:
    assert held_out_count("5%", 64) == 3
    assert held_out_count("5%", 10) == 1
    assert held_out_count("5%", 9) == 0
    assert held_out_count("8", 64) == 8
    assert held_out_count("90%", 3) == 2
    assert held_out_count("0", 64) == 0
    for wish, pictures in (("100%", 64), ("4", 4), ("8", 4), ("1", 1)):
        with pytest.raises(ConfigError, match="leaves no picture to train on"):
            held_out_count(wish, pictures)
    for wrong in ("five", "-1", "120%", ""):
        with pytest.raises(ConfigError, match="--validation is"):
            held_out_count(wrong, 64)


def test_bad_sets_are_one_sentence(
    vlv: Callable[..., Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    written(tmp_path / "bare", {"a": "", "b": ""})
    (tmp_path / "text.json").write_text('{"a": 1}')
    (written(tmp_path / "other", {"a": ""}) / "config.json").write_text('{"size": {"width": 3}}')
    for images, code, message in (
        ("nowhere", 1, "there is no file or folder"),
        ("empty", 1, "holds no images"),
        ("bare", 1, "none of the 2 pictures"),
        ("text.json", 1, "is no JSON of captions"),
        ("other", 1, "none of the 1 pictures"),
    ):
        made = vlv("finetune", tiny_model_dir, tmp_path / images, "--out", tmp_path / "out")
        assert (made.code, len(made.err.splitlines())) == (code, 1), made.err
        assert message in made.err
        assert not (tmp_path / "out").exists()


def test_pictures_that_do_not_work_are_named_and_left_out(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "00.txt").unlink()
    (photos / "01.png").write_bytes(b"no picture")
    (photos / "02.png").write_bytes((photos / "02.png").read_bytes()[:60])
    made = vlv("finetune", tiny_model_dir, photos, "--out", tmp_path / "out", "--epochs", "1")
    assert made.code == 1
    assert "9 pictures with captions: 9 to train on, 0 held out" in made.err
    assert "1 picture without a caption left out (00.png first)" in made.err
    assert "vlv: left out: 01.png is no image in a known format" in made.err
    assert "vlv: left out: 02.png is truncated: its data end early" in made.err
    assert "then 2 steps of 8 pictures (1 epoch)" in made.err
    assert (tmp_path / "out" / "vlv.json").is_file()


def test_pictures_with_one_caption_file_are_named(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    plain("blue").save(photos / "00.jpg")
    made = vlv("finetune", tiny_model_dir, photos, "--out", tmp_path / "out", "--epochs", "1")
    assert made.code == 0, made.err
    (warning,) = [line for line in made.err.splitlines() if "caption file" in line]
    assert warning.startswith(f"vlv: warning: in {photos}, 00.jpg and 00.png share one caption")


def test_one_picture_is_enough(
    vlv: Callable[..., Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = written(tmp_path / "set", {"a": "A red cube."})
    made = vlv("finetune", tiny_model_dir, folder, "--out", tmp_path / "out", "--epochs", "2")
    assert made.code == 0, made.err
    assert "1 picture with captions: 1 to train on, 0 held out" in made.err


def test_an_out_of_something_else_is_refused(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tuned: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    psi = other / "caption_decoder" / "psi.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: x + 1 for name, x in load_file(psi).items()}, psi)
    for command, code, message in (
        ((other, photos, "--out", tuned), 2, "is a fine-tune of"),
        ((tiny_model_dir, photos, "--out", photos), 2, "holds files that are no fine-tune"),
        ((tiny_model_dir, photos, "--out", other), 2, "holds a model that is no fine-tune"),
        (
            (tiny_model_dir, photos, "--out", tuned, *QUICK, "--batch-size", "2"),
            2,
            "was begun with another --epochs or --batch-size; give the same as then",
        ),
        (
            (tiny_model_dir, photos, "--out", tuned, "--full", "--validation", "0"),
            2,
            "was begun with another choice of --full; give the same as then",
        ),
        (
            (tiny_model_dir, photos, "--out", tuned, *QUICK, "--seed", "1"),
            2,
            "was begun with another --seed; give the same as then",
        ),
        ((tiny_model_dir, photos, "--out", tuned, *QUICK, "--epochs", "2"), 2, "another --epochs"),
        ((tuned, photos, "--out", tmp_path / "x"), 3, "is a fine-tune itself"),
        (("nobody/nothing", photos, "--out", tmp_path / "x"), 3, "nobody/nothing"),
    ):
        made = vlv("finetune", *command)
        assert made.code == code, made.err
        assert message in made.err


def test_edited_captions_make_another_run(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tuned: Path
) -> None:
    """The same command on a set that was edited must not say that it is finished."""
    command = ("finetune", tiny_model_dir, photos, "--out", tuned, *QUICK)
    assert "is finished already" in vlv(*command).err
    (photos / "03.txt").write_text("A red cube.")
    made = vlv(*command)
    assert (made.code, "was begun with other pictures or captions" in made.err) == (2, True)


def test_what_a_fine_tune_will_not_learn_is_said_before_it_trains(
    vlv: Callable[..., Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    shades = [plain((red, 0, 0)) for red in range(0, 250, 6)]
    encoder = load_model(model).encoder
    add_ood_detector(OODDetector.fit(picture_features(encoder, shades)), model)
    folder = written(tmp_path / "set", {"a": "xyz " * 200, "b": "xyz " * 200})
    for name in ("a", "b"):
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    made = vlv("finetune", model, folder, "--out", tmp_path / "out", "--epochs", "1")
    assert made.code == 0, made.err
    for warning in (
        "all captions are the same",
        "2 captions of more than 300 tokens will be cut",
        "2 of 2 pictures are unlike those",
        "does not know the words of these captions",
    ):
        assert warning in made.err
    shown = vlv("caption", "--model", tmp_path / "out", folder / "a.png")
    assert "the base of this fine-tune was trained on" in shown.err


def test_an_adapter_whose_base_has_changed_is_not_opened(
    vlv: Callable[..., Any], tuned: Path, photos: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(tiny_model_dir, changed)
    shutil.copy(tuned / "psi.safetensors", changed / "caption_decoder" / "psi.safetensors")
    manifest = json.loads((tuned / "vlv.json").read_text())
    for base, message in ((changed, "whose weights have changed"), ("gone", "cannot be opened")):
        manifest["adapter"]["base"] = str(base)
        (tuned / "vlv.json").write_text(json.dumps(manifest))
        opened = vlv("caption", "--model", tuned, photos / "00.png")
        assert (opened.code, len(opened.err.splitlines())) == (3, 1)
        assert message in opened.err


def test_a_hostile_adapter_is_refused(vlv: Callable[..., Any], tuned: Path, photos: Path) -> None:
    path = tuned / "adapter_config.json"
    settings = json.loads(path.read_text())
    for change, message in (
        ({"use_dora": True}, "use_dora"),
        ({"target_modules": ["model.nothing"]}, "is no matrix of this language model"),
        ({"r": 8}, "with shape"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "names code of its own"),
    ):
        path.write_text(json.dumps(settings | change))
        opened = vlv("caption", "--model", tuned, photos / "00.png")
        assert (opened.code, message in opened.err) == (3, True), opened.err


def test_a_rate_that_diverges_ends_in_one_sentence(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    command = ("finetune", tiny_model_dir, photos, "--out", tmp_path / "out", "--validation", "3")
    made = vlv(*command, "--learning-rate", "0.9", "--epochs", "30")
    assert made.code == 1
    assert "captions of held-out pictures get worse" in made.err
    assert "lower --learning-rate" in made.err


def test_too_little_memory_is_one_sentence(
    vlv: Callable[..., Any],
    tiny_model_dir: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda _device: 1000)
    made = vlv("finetune", tiny_model_dir, photos, "--out", tmp_path / "out")
    assert made.code == 1
    assert "of memory at the least" in made.err
    assert "--quantization 4bit" in made.err


def test_memory_that_runs_out_before_training_is_one_sentence(
    vlv: Callable[..., Any],
    tiny_model_dir: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where held-out captions are read, with an allocation that really fails."""
    monkeypatch.setattr(
        FinetuneObjective, "caption_loss", lambda *_: float(torch.empty(2**50).sum())
    )
    made = vlv("finetune", tiny_model_dir, photos, "--out", tmp_path / "out", *QUICK)
    assert made.code == 1
    last = made.err.strip().splitlines()[-1]
    assert last.startswith("vlv: finetune: the memory does not suffice for batches of ")
    assert last.endswith("or name another --out and lower --batch-size")


def test_held_out_captions_are_read_in_the_batches_that_fit(
    vlv: Callable[..., Any],
    tiny_model_dir: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def two(_folder: Path, shape: memory.Shape, _free: int) -> tuple[memory.Shape, Any]:
        smaller = replace(shape, micro_batch=2)
        return smaller, memory.finetune_memory(memory.empty_model(tiny_model_dir), smaller)

    read: list[int] = []

    def seen(objective: FinetuneObjective, some: list[Any]) -> torch.Tensor:
        read.append(len(some))
        return usual(objective, some)

    usual = FinetuneObjective._seen
    monkeypatch.setattr(FinetuneObjective, "_seen", seen)
    monkeypatch.setattr(plan, "fitting", two)
    command = ("finetune", tiny_model_dir, photos, "--out", tmp_path / "out", *QUICK)
    made = vlv(*command, "--batch-size", "4", "--validation", "4")
    assert made.code == 0, made.err
    # The batches of two before training; captions that are shown are written together.
    assert read[:2] == [2, 2]


def test_a_device_of_another_precision_is_named(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tuned: Path
) -> None:
    (settings,) = tuned.rglob("settings.json")
    begun = json.loads(settings.read_text())
    settings.write_text(json.dumps({**begun, "mixed_precision": "bf16"}))
    made = vlv("finetune", tiny_model_dir, photos, "--out", tuned, *QUICK)
    assert made.code == 2
    assert "was begun with a device of another precision" in made.err


def test_many_conditionings_are_read_with_few_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditionings, "_IN_A_FILE", 1)
    pictures = [CaptionedPicture(n, f"{n}.png", ("A cube.",), f"{n:08x}") for n in range(200)]
    kept = conditionings.KeptConditionings(tmp_path, pictures)
    kept.fill(lambda one: torch.full((1, 2, 3), float(one.number)), kept.missing())
    before = psutil.Process().num_fds()
    assert [int(kept[n][0, 0]) for n in range(200)] == list(range(200))
    assert psutil.Process().num_fds() - before < 100


def test_a_batch_is_split_until_it_fits(tiny_model_dir: Path) -> None:
    shape = memory.Shape(16, None, False, False, 32, 8)
    whole = memory.finetune_memory(memory.empty_model(tiny_model_dir), shape)
    fits, need = memory.fitting(tiny_model_dir, shape, whole.total)
    assert (fits, need.total) == (shape, whole.total)
    smaller, need = memory.fitting(tiny_model_dir, shape, whole.total - 1)
    assert smaller.gradient_checkpointing
    assert need.total < whole.total
    with pytest.raises(TrainingError, match="are free"):
        memory.fitting(tiny_model_dir, shape, 10)


def test_without_peft_it_is_one_sentence(
    vlv: Callable[..., Any],
    tiny_model_dir: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    made = vlv("finetune", tiny_model_dir, photos, "--out", tmp_path / "out")
    assert (made.code, "pip install 'vlv[finetune]'" in made.err) == (2, True)
