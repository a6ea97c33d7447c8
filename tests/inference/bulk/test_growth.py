"""`vlv bulk` again on a source that has changed, on captions by hand, and on damaged records."""

import io
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from tests.checkpoints.authors_layout import write_torch
from tests.data.odd_shards import GOOD, member, png
from tests.inference.bulk.jobs import FAST, captions, numbers
from tests.shared import shared_folder
from tests.training.finetuning.conftest import tune

from vlv.checkpoints.adapters import captioner_hash, former_captioner_hash
from vlv.checkpoints.hub import EMBEDDED
from vlv.data.sets import read_set
from vlv.data.world_sets import world_samples
from vlv.errors import CheckpointError, ConfigError
from vlv.inference.bulk.captioning import ShardCaptioner
from vlv.inference.bulk.image_names import SHARED
from vlv.inference.bulk.job import Format, Job
from vlv.inference.bulk.opening import opened
from vlv.inference.bulk.plan import read_plan
from vlv.inference.bulk.running import run
from vlv.inference.bulk.tasks import Task
from vlv.inference.captioning import CaptionSettings
from vlv.inference.written import RECORD, Replace

SIZE = (64, 64)


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        PILImage.new("RGB", SIZE, (number * 30, 90, 90)).save(folder / f"{name}.png")


def test_a_folder_that_grows_shrinks_and_is_mended(vlv: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    pictures(folder, "b", "c", "d", "e", "f")
    (folder / "broken.png").write_bytes(b"no image")
    job = ["bulk", folder, folder, *FAST, "--output-format", "txt", "--json"]
    assert numbers(vlv(*job).out)["failed"] == {"unknown-format": 1}
    done = {path: path.read_bytes() for path in (folder / ".vlv-bulk").glob("00001.json*")}
    assert len(done) == 2

    (folder / "b.txt").write_text("By hand.\n")
    gone = (folder / "c.png").read_bytes()
    (folder / "c.png").unlink()
    PILImage.new("RGB", SIZE).save(folder / "broken.png")
    pictures(folder, "a", "g")
    (folder / "g.txt").write_text("By hand too.\n")
    ran = vlv(*job)
    reported = numbers(ran.out)
    assert (ran.code, reported["images"], reported["ok"], reported["kept"]) == (0, 7, 6, 1), ran.err
    assert (reported["gone"], reported["failed"], reported["images_in_this_run"]) == (1, {}, 3)
    assert (folder / "a.txt").read_text()
    assert (folder / "broken.txt").read_text()
    assert (folder / "b.txt").read_text() == "By hand.\n"
    assert (folder / "g.txt").read_text() == "By hand too.\n"
    assert {path: path.read_bytes() for path in done} == done

    # An image that is back has its caption still.
    (folder / "c.png").write_bytes(gone)
    reported = numbers(vlv(*job).out)
    assert (reported["images"], reported["gone"], reported["images_in_this_run"]) == (8, 0, 0)


def test_an_empty_source_does_not_empty_the_results(vlv: Callable, tmp_path: Path) -> None:
    """Such as the folder of a disk that is not mounted."""
    folder, out = tmp_path / "set", tmp_path / "out"
    pictures(folder, "a", "b")
    job = ["bulk", folder, out, *FAST, "--output-format", "jsonl", "--json"]
    assert vlv(*job).code == 0
    before = captions(out)
    for picture in folder.iterdir():
        picture.unlink()
    ran = vlv(*job)
    assert (ran.code, len(ran.err.splitlines())) == (1, 1), ran.err
    assert f"{folder} holds no images" in ran.err
    assert captions(out) == before
    pictures(folder, "a", "b")
    assert numbers(vlv(*job).out)["ok"] == len(before) == 2


def test_a_result_with_images_keeps_what_the_source_has_lost(tmp_path: Path) -> None:
    """An image of a folder, and a shard as a whole."""
    folder, shards = tmp_path / "set", tmp_path / "shards"
    pictures(folder, "a", "b")
    shards.mkdir()
    for name in "ab":
        (shards / f"{name}.tar").write_bytes(GOOD + b"\0" * 1024)
    settings = CaptionSettings(num_beams=1, max_new_tokens=6)
    for source, first in ((folder, "a.png"), (shards, "a.tar")):
        out = tmp_path / f"{source.name}-out"
        job = Job(str(source), out, "folder", captions=settings)
        with opened(job, Replace.NONE, print), ShardCaptioner(job, "cpu", 1) as captioner:
            for shard in read_plan(job.folder):
                captioner.caption(Task(shard))
        (source / first).unlink()
        assert run(job).counts == {"ok": 1, "gone": 1}
        assert len(captions(out)) == 2
        assert set(captions(out)) == {one.file_name for one in read_set(out)}


@pytest.mark.parametrize("format", ["jsonl", "txt", "folder", "webdataset"])
def test_an_image_that_is_replaced_is_captioned_again(
    vlv: Callable, tmp_path: Path, format: str
) -> None:
    """Under its name and, as bitmaps have it, with the size of the old one."""
    folder, out = tmp_path / "set", tmp_path / "out"
    folder.mkdir()
    scenes = [PILImage.open(io.BytesIO(one.image)) for one in world_samples(4, seed=3)]
    for name, scene in zip("abc", scenes, strict=False):
        scene.save(folder / f"{name}.bmp")
    job = ["bulk", folder, out, "--num-beams", 1, "--output-format", format, "--json"]

    def texts() -> dict[str, str]:
        lines = (out / ".vlv-bulk" / "00000.jsonl").read_text().splitlines()
        return {one["file_name"]: one["text"] for one in map(json.loads, lines)}

    assert numbers(vlv(*job).out)["ok"] == 3
    before = texts()
    scenes[3].save(folder / "b.bmp")
    for name in "ac":  # as a copy of the folder has it
        os.utime(folder / f"{name}.bmp", (1, 1))
    ran = numbers(vlv(*job).out)
    assert (ran["ok"], ran["images_in_this_run"]) == (3, 1)
    after = texts()
    assert after["b.bmp"] != before["b.bmp"]
    assert {name: after[name] for name in ("a.bmp", "c.bmp")} == {
        name: before[name] for name in ("a.bmp", "c.bmp")
    }
    if format in ("txt", "folder"):
        assert (out / "b.txt").read_text().strip() == after["b.bmp"]
    if format == "folder":
        assert (out / "b.bmp").read_bytes() == (folder / "b.bmp").read_bytes()
    assert numbers(vlv(*job).out)["images_in_this_run"] == 0


def test_an_image_that_is_replaced_keeps_a_caption_by_hand(vlv: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    pictures(folder, "a", "b")
    job = ["bulk", folder, folder, *FAST, "--output-format", "txt", "--json"]
    assert numbers(vlv(*job).out)["ok"] == 2
    (folder / "a.txt").write_text("By hand.\n")
    PILImage.new("RGB", (80, 64), "white").save(folder / "a.png")
    reported = numbers(vlv(*job).out)
    assert (reported["ok"], reported["kept"]) == (1, 1)
    assert (folder / "a.txt").read_text() == "By hand.\n"


def test_a_shard_that_is_replaced_by_one_of_its_size_is_captioned_again(
    vlv: Callable, tmp_path: Path
) -> None:
    """Archives are padded, so that another image seldom changes their size."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    tar = source / "a.tar"
    tar.write_bytes(member("x.png", png(5)) + b"\0" * 1024)
    job = ["bulk", source, out, *FAST, "--json"]
    assert numbers(vlv(*job).out)["ok"] == 1
    os.utime(tar, (1, 1))
    assert numbers(vlv(*job).out)["images_in_this_run"] == 0
    other = member("y.png", png(5)) + b"\0" * 1024
    assert len(other) == tar.stat().st_size
    tar.write_bytes(other)
    assert numbers(vlv(*job).out)["images_in_this_run"] == 1
    assert set(captions(out)) == {"00000/y.png"}


def test_shards_that_are_added_and_removed(vlv: Callable, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in "bc":
        (source / f"{name}.tar").write_bytes(GOOD + b"\0" * 1024)
    job = ["bulk", source, tmp_path / "out", *FAST, "--json"]
    assert numbers(vlv(*job).out)["ok"] == 2
    (source / "a.tar").write_bytes(member("x.png", png(5)) + b"\0" * 1024)
    (source / "b.tar").unlink()
    (source / "c.tar").write_bytes(GOOD + member("y.png", png(6)) + b"\0" * 1024)
    reported = numbers(vlv(*job).out)
    assert (reported["ok"], reported["gone"], reported["failed"]) == (3, 1, {})
    assert set(captions(tmp_path / "out")) == {"00001/m.png", "00001/y.png", "00002/x.png"}


def test_what_is_added_to_a_shard_while_it_is_captioned_is_captioned_next_time(
    tmp_path: Path,
) -> None:
    shards = tmp_path / "source"
    shards.mkdir()
    tar = shards / "a.tar"
    tar.write_bytes(GOOD + b"\0" * 1024)
    settings = CaptionSettings(num_beams=1, max_new_tokens=6)
    job = Job(str(shards), tmp_path / "out", "jsonl", captions=settings)

    def grow(first: int, count: int) -> None:  # called when the shard has been read
        tar.write_bytes(GOOD + member("y.png", png(6)) + b"\0" * 1024)

    with opened(job, Replace.NONE, print), ShardCaptioner(job, "cpu", 1) as captioner:
        (shard,) = read_plan(job.folder)
        captioner.caption(Task(shard), grow)
    run(job)
    assert set(captions(tmp_path / "out")) == {"00000/m.png", "00000/y.png"}


@pytest.mark.parametrize("format", ["jsonl", "folder"])
def test_a_file_that_is_completed_after_it_was_read_is_captioned_next_time(
    tmp_path: Path, format: Format
) -> None:
    folder = tmp_path / "set"
    pictures(folder, "a", "b")
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[:60])
    # Groups of one image: the second one is decoded while the first is captioned.
    settings = CaptionSettings(num_beams=2, max_new_tokens=6)
    job = Job(str(folder), tmp_path / "out", format, captions=settings, batch_size=1)

    def complete(first: int, count: int) -> None:
        if first == 0:
            time.sleep(1)  # for the decoder
            (folder / "b.png").write_bytes(whole)

    with opened(job, Replace.NONE, print), ShardCaptioner(job, "cpu", 1) as captioner:
        (shard,) = read_plan(job.folder)
        captioner.caption(Task(shard), complete)
    run(job)
    assert set(captions(tmp_path / "out")) == {"a.png", "b.png"}


def test_a_model_that_was_trained_on_is_another_job(vlv: Callable, tmp_path: Path) -> None:
    folder, out, model = tmp_path / "set", tmp_path / "out", tmp_path / "model"
    pictures(folder, "a")
    shutil.copytree(EMBEDDED["vlv-mini"], model)
    job = ["bulk", folder, out, *FAST, "--model", model]
    assert vlv(*job).code == 0
    pictures(folder, "b")
    psi = model / "caption_decoder" / "psi.safetensors"
    changed = {name: one + 0.01 for name, one in load_file(psi).items()}
    save_file(changed, psi, metadata={"format": "pt"})
    ran = vlv(*job)
    assert ran.code == 2 and f"{model} has other weights than when the job was begun" in ran.err
    assert set(captions(out)) == {"a.png"}
    # Jobs of earlier versions have no record of it.
    record = out / ".vlv-bulk" / "job.json"
    about = json.loads(record.read_text())
    del about["weights"]
    record.write_text(json.dumps(about))
    assert vlv(*job).code == 0 and set(captions(out)) == {"a.png", "b.png"}


def test_every_file_that_captions_depend_on_makes_another_job(
    tiny_model_dir: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of models that are no plain folder: beside components, or without any."""
    folder, gguf = tmp_path / "set", tmp_path / "gguf"
    made = shared_folder(tmp_path_factory, "tuned", partial(tune, tiny_model_dir))
    tuned = Path(shutil.copytree(made / "mine", tmp_path / "mine"))
    pictures(folder, "a")
    shutil.copytree(EMBEDDED["vlv-mini"], gguf)
    (gguf / "caption_decoder" / "language_model" / "model.gguf").write_bytes(b"GGUF")
    theirs = write_torch({"query_embed": torch.zeros(2)}, tmp_path / "theirs" / "model.pt")
    for number, (model, file) in enumerate(
        [
            (tuned, tuned / "psi.safetensors"),
            (tuned, tuned / "adapter_model.safetensors"),
            (gguf, gguf / "caption_decoder" / "language_model" / "model.gguf"),
            (theirs, theirs),
            (theirs.parent, theirs),
        ]
    ):
        job = Job(str(folder), tmp_path / f"out{number}", "jsonl", model=str(model))
        record = job.folder / "job.json"
        for _ in range(2):
            with opened(job, Replace.NONE, print):
                pass
        about = json.loads(record.read_text())
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ConfigError, match="other weights"), opened(job, Replace.NONE, print):
            pass
        # Earlier versions recorded less of such a model, or a hash of nothing.
        record.write_text(json.dumps(about | {"weights": former_captioner_hash(model)}))
        with opened(job, Replace.NONE, print):
            assert json.loads(record.read_text())["weights"] == captioner_hash(model)
    file.unlink()
    with pytest.raises(CheckpointError, match="holds no"):
        captioner_hash(theirs.parent)


def test_damaged_records_are_noticed_and_mended(vlv: Callable, tmp_path: Path) -> None:
    folder, out = tmp_path / "set", tmp_path / "out"
    pictures(folder, *"abcdef")
    job = ["bulk", folder, out, *FAST, "--output-format", "webdataset", "--json"]
    assert vlv(*job).code == 0
    results = {path: path.read_bytes() for path in out.glob("0*")}
    own = out / ".vlv-bulk"

    tar = bytearray((out / "00000.tar").read_bytes())
    tar[2000:3000] = b"\0" * 1000
    (out / "00000.tar").write_bytes(tar)
    lines = bytearray((own / "00001.jsonl").read_bytes())
    lines[20] ^= 1
    (own / "00001.jsonl").write_bytes(lines)
    (own / "plan.jsonl").write_text("{")
    ran = vlv(*job)
    assert ran.code == 0, ran.err
    assert "the plan of the job" in ran.err
    assert ran.err.count("is damaged; it is done again") == 2
    assert {path: path.read_bytes() for path in out.glob("0*")} == results

    # A plan that the source alone does not give again; a mark that is no object.
    pictures(folder, "A")
    assert vlv(*job).code == 0
    (own / "names.jsonl").write_bytes(b"\0" * 30)
    (own / "00001.json").write_text("[1]")
    ran = vlv(*job)
    assert (ran.code, numbers(ran.out)["ok"]) == (0, 7), ran.err
    assert {path: path.read_bytes() for path in results} == results

    (own / "job.json").write_text("[" * 100_000)
    ran = vlv(*job)
    assert ran.code == 1
    assert "job.json is" in ran.err.splitlines()[-1]


def test_captions_by_hand_stay(vlv: Callable, tmp_path: Path) -> None:
    folder, out = tmp_path / "set", tmp_path / "out"
    pictures(folder, "a", "b", "c")
    job = ["bulk", folder, out, *FAST, "--output-format", "folder", "--json"]
    assert vlv(*job).code == 0
    made = captions(out)
    # A shard that is done again meets a caption by hand, which metadata.jsonl then tells too.
    (out / "a.txt").write_text("By hand.\n")
    (out / ".vlv-bulk" / "00000.json").unlink()
    reported = numbers(vlv(*job).out)
    assert (reported["ok"], reported["kept"]) == (2, 1)
    assert (out / "a.txt").read_text() == "By hand.\n"
    assert captions(out) == {**made, "a.png": "By hand."}

    # The lines of metadata.jsonl are captions as well.
    job = ["bulk", folder, tmp_path / "lines", *FAST]
    assert vlv(*job).code == 0
    metadata = tmp_path / "lines" / "metadata.jsonl"
    edited = {**captions(tmp_path / "lines"), "b.png": "By hand."}
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in edited.items()]
    metadata.write_text("\n".join(lines))
    assert vlv(*job).code == 0
    assert captions(tmp_path / "lines") == edited
    assert vlv(*job, "--overwrite", "--overwrite-edited").code == 0
    assert captions(tmp_path / "lines")["b.png"] == made["b.png"]


def test_an_emptied_caption_file_is_no_caption(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    pictures(folder, "a", "b", "c")
    (folder / "c.txt").write_text("By hand.\n")
    settings = CaptionSettings(num_beams=1, max_new_tokens=6)
    job = Job(str(folder), folder, "txt", captions=settings)
    assert run(job).counts == {"ok": 2, "kept": 1}
    made = (folder / "a.txt").read_text()
    (folder / "a.txt").write_text("")
    (folder / "b.txt").write_text(" \n\ufeff\n")
    (folder / "c.txt").unlink()
    assert run(job).counts == {"ok": 3}
    assert (folder / "a.txt").read_text() == made
    assert (folder / "b.txt").read_text().strip() and (folder / "c.txt").read_text().strip()
    record = (folder / RECORD).read_text().splitlines()
    assert len(record) == len(set(record)) == 3


@pytest.mark.parametrize(
    ("format", "with_both", "without_first"),
    [
        ("txt", {"ok": 2, "gone": 1, SHARED: 1}, {"ok": 2, "gone": 2}),
        # There the images that the source has lost stay, with their captions.
        ("folder", {"ok": 1, "gone": 1, SHARED: 2}, {"gone": 2, SHARED: 2}),
    ],
)
def test_a_caption_file_is_of_one_image_at_a_time(
    tmp_path: Path, format: Format, with_both: dict[str, int], without_first: dict[str, int]
) -> None:
    folder = tmp_path / "set"
    pictures(folder, "a", "b")
    settings = CaptionSettings(num_beams=1, max_new_tokens=6)
    job = Job(str(folder), tmp_path / "out", format, captions=settings)
    assert run(job).counts == {"ok": 2}
    (folder / "b.png").unlink()
    for name in "ab":
        PILImage.new("RGB", SIZE).save(folder / f"{name}.jpg")
    assert run(job).counts == with_both
    (folder / "a.png").unlink()
    assert run(job).counts == without_first


def test_of_edited_lines_only_those_stay(tmp_path: Path) -> None:
    folder, out = tmp_path / "set", tmp_path / "out"
    pictures(folder, "a", "b", "c")
    settings = CaptionSettings(num_beams=1, max_new_tokens=6)
    job = Job(str(folder), out, "jsonl", captions=settings)
    run(job)
    made = captions(out)
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in made.items()]
    lines[1] = json.dumps({"file_name": "./b.png", "text": "By hand."})
    lines[2] = json.dumps({"file_name": "c.png", "text": made["c.png"], "label": 3})
    (out / "metadata.jsonl").write_text("\n".join(lines))
    for prepend in ("", "", "new "):
        if prepend:
            shutil.rmtree(out / ".vlv-bulk")
            out = out.rename(folder / "out")
            for name in ("metadata.jsonl", RECORD):
                (out / name).rename(folder / name)
            out = folder
        again = replace(job, target=out, prepend=prepend)
        run(again, overwrite=bool(prepend))
        assert captions(out) == {
            "a.png": prepend + made["a.png"],
            "b.png": "By hand.",
            "c.png": prepend + made["c.png"],
        }
        assert json.loads((out / "metadata.jsonl").read_text().splitlines()[2])["label"] == 3


def test_captions_of_an_earlier_command_stay(vlv: Callable, tmp_path: Path) -> None:
    """They are this program's, and no part of this job."""
    folder = tmp_path / "set"
    pictures(folder, "a", "b", "c")
    job = ["bulk", folder, folder, *FAST, "--output-format", "txt"]
    assert vlv(*job, "--prepend", "old ").code == 0
    made = {path: path.read_text() for path in folder.glob("*.txt")}
    (folder / "b.txt").write_text("\n")
    shutil.rmtree(folder / ".vlv-bulk")
    pictures(folder, *"abcd")
    ran = vlv(*job, "--json")
    reported = numbers(ran.out)
    assert (ran.code, reported["ok"], reported["kept"]) == (0, 2, 2), ran
    after = {path: path.read_text() for path in made}
    assert {path.name for path in made if after[path] != made[path]} == {"b.txt"}
    assert len(made) == 3 and (folder / "d.txt").is_file()


def test_overwriting_spares_what_was_edited(vlv: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    pictures(folder, "a", "b")
    job = ["bulk", folder, folder, *FAST, "--output-format", "txt"]
    assert vlv(*job).code == 0
    made = (folder / "b.txt").read_text()
    refused = vlv(*job, "--overwrite", "--prepend", "new ")
    assert refused.code == 2
    assert f"or remove {folder / '.vlv-bulk'} to begin again here" in refused.err
    for flags, kept in ((["--overwrite"], True), (["--overwrite", "--overwrite-edited"], False)):
        shutil.rmtree(folder / ".vlv-bulk")
        (folder / "a.txt").write_text("By hand.\n")
        (folder / "b.txt").write_text(made)
        assert vlv(*job, *flags, "--prepend", "new ").code == 0
        assert ((folder / "a.txt").read_text() == "By hand.\n") == kept
        assert (folder / "b.txt").read_text() == f"new {made}"


def test_a_line_that_is_written_by_hand_during_the_job_stays(tmp_path: Path) -> None:
    folder, out = tmp_path / "set", tmp_path / "out"
    pictures(folder, *"abcdef")
    line = {"file_name": "f.png", "text": "By hand."}

    def edit(images: int) -> None:
        (out / "metadata.jsonl").write_text(json.dumps(line))

    settings = CaptionSettings(num_beams=1, max_new_tokens=6)
    run(Job(str(folder), out, "jsonl", captions=settings, shard_size=4), report=edit)
    made = captions(out)
    assert set(made) == {f"{name}.png" for name in "abcdef"}
    assert made["f.png"] == "By hand." != made["a.png"]


def test_a_link_that_led_nowhere_is_captioned_once_it_leads_somewhere(
    vlv: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    pictures(folder, "a")
    (folder / "b.png").symlink_to(tmp_path / "elsewhere.png")
    job = ["bulk", folder, tmp_path / "out", *FAST, "--json"]
    assert numbers(vlv(*job).out)["failed"] == {"unreadable": 1}
    shutil.copy(folder / "a.png", tmp_path / "elsewhere.png")
    reported = numbers(vlv(*job, "--retry-failed").out)
    assert (reported["ok"], reported["failed"]) == (2, {})
