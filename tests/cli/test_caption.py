"""`vlv caption`: what is printed and written, and what a bad file costs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import CAPTIONS, plain

from vlv.models.caption_decoder import CaptionDecoder
from vlv.pipeline import VLV

pytestmark = pytest.mark.usefixtures("use_tiny_model")


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_image_gives_its_bare_caption(vlv: Callable, pictures: Path) -> None:
    ran = vlv("caption", pictures / "red.png")
    assert (ran.code, ran.out, ran.err) == (0, CAPTIONS["red"] + "\n", "")


def test_many_images_give_path_and_caption(vlv: Callable, pictures: Path) -> None:
    ran = vlv("caption", pictures / "red.png", pictures / "blue.png", "--batch_size", 1)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"{pictures / 'red.png'}\t{CAPTIONS['red']}",
        f"{pictures / 'blue.png'}\t{CAPTIONS['blue']}",
    ]


def test_a_folder_and_its_subfolders(vlv: Callable, pictures: Path) -> None:
    (pictures / "sub").mkdir()
    (pictures / "red.png").rename(pictures / "sub" / "red.png")
    flat, deep = vlv("caption", pictures), vlv("caption", pictures, "--recursive")
    assert [line.split("\t")[0] for line in flat.out.splitlines()] == [
        str(pictures / name) for name in ("blue.png", "lime.png")
    ]
    assert f"{pictures / 'sub' / 'red.png'}\t{CAPTIONS['red']}" in deep.out.splitlines()


def test_bad_files_are_named_and_stop_no_other(vlv: Callable, pictures: Path) -> None:
    (pictures / "notes.png").write_text("no image")
    torn = (pictures / "lime.png").read_bytes()[:50]
    (pictures / "lime.png").write_bytes(torn)
    ran = vlv("caption", pictures, pictures / "missing.png", "x" * 300)
    assert ran.code == 1
    assert [line.split("\t")[1] for line in ran.out.splitlines()] == [
        CAPTIONS["blue"],
        CAPTIONS["red"],
    ]
    reasons = [line.split(": ")[1] for line in ran.err.splitlines()]
    assert reasons == ["truncated", "unknown-format", "unreadable", "unreadable"]
    assert str(pictures / "missing.png") in ran.err


def test_json(vlv: Callable, pictures: Path) -> None:
    (pictures / "bad.png").write_bytes(b"")
    ran = vlv("caption", pictures, "--json")
    assert ran.code == 1
    bad, blue, *_ = records(ran.out)
    assert bad["file_name"] == str(pictures / "bad.png")
    assert bad["error"] == "empty"
    assert blue["text"] == CAPTIONS["blue"]
    assert blue["ended"] is True
    assert blue["tokens"] > 3


def test_captions_beside_the_images(vlv: Callable, pictures: Path) -> None:
    (pictures / "red.txt").write_text("mine")
    ran = vlv("caption", pictures, "--output_format", "txt")
    assert ran.code == 0
    assert "2 captions written, 1 left as they are" in ran.out
    assert (pictures / "red.txt").read_text() == "mine"
    assert (pictures / "blue.txt").read_text() == CAPTIONS["blue"] + "\n"
    again = vlv("caption", pictures, "--output-format", "txt", "--overwrite-edited")
    assert "3 captions written, 0 failed" in again.out
    assert (pictures / "red.txt").read_text() == CAPTIONS["red"] + "\n"


def test_caption_extension(vlv: Callable, pictures: Path) -> None:
    arguments = ["caption", pictures / "red.png", "--output_format", "txt"]
    assert vlv(*arguments, "--caption_extension", ".caption").code == 0
    assert (pictures / "red.caption").read_text() == CAPTIONS["red"] + "\n"
    assert vlv(*arguments, "--caption_extension", "caption").code == 2
    assert vlv(*arguments, "--caption_extension", ".png", "--overwrite").code == 2


def test_a_shared_stem_is_warned_of_and_written_once(vlv: Callable, pictures: Path) -> None:
    plain("blue").save(pictures / "red.jpg")
    ran = vlv("caption", pictures, "--output_format", "txt", "--overwrite")
    assert ran.code == 0
    assert "red.jpg and red.png share the caption file" in ran.err
    assert (pictures / "red.txt").read_text() == CAPTIONS["blue"] + "\n"
    assert ran.out == "3 captions written, 1 without a caption file of their own, 0 failed\n"
    again = vlv("caption", pictures, "--output_format", "txt")
    assert again.out.startswith("0 captions written, 3 left as they are")
    assert "it exists already and stays, and may belong to any of them" in again.err


def test_a_place_that_cannot_be_written_costs_one_image(vlv: Callable, pictures: Path) -> None:
    (pictures / "red.txt").mkdir()
    ran = vlv("caption", pictures, "--output_format", "txt", "--overwrite")
    assert ran.code == 1
    assert "unwritable" in ran.err and "red.png" in ran.err
    assert "2 captions written, 1 failed" in ran.out
    assert not [path for path in pictures.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_a_list_that_cannot_be_written_is_refused_before_the_work(
    vlv: Callable, pictures: Path, format: str
) -> None:
    flags = ("--output-format", format, "--output", f"/proc/nowhere/captions.{format}")
    ran = vlv("caption", pictures, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert "cannot be written (No such file or directory); name another file" in ran.err
    assert vlv("caption", pictures, *flags, "--dry-run").code == 0


def test_metadata_jsonl(vlv: Callable, pictures: Path) -> None:
    ran = vlv("caption", pictures, "--output_format", "jsonl")
    assert ran.code == 0
    assert records((pictures / "metadata.jsonl").read_text()) == [
        {"file_name": f"{color}.png", "text": CAPTIONS[color]} for color in sorted(CAPTIONS)
    ]
    assert "0 captions written, 3 left" in vlv("caption", pictures, "--output_format", "jsonl").out


def test_metadata_is_what_datasets_reads(
    vlv: Callable, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    assert vlv("caption", pictures, "--output_format", "jsonl").code == 0
    loaded = datasets.load_dataset("imagefolder", data_dir=str(pictures), cache_dir=str(tmp_path))
    assert sorted(loaded["train"]["text"]) == sorted(CAPTIONS.values())


def test_metadata_elsewhere_and_again(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (pictures / "red.png").rename(other / "red.png")
    wrong = vlv("caption", pictures / "blue.png", other / "red.png", "--output_format", "jsonl")
    assert wrong.code == 2
    out = tmp_path / "all" / "captions.jsonl"
    arguments = ["--output_format", "jsonl", "--output", out]
    assert vlv("caption", pictures, other, *arguments).code == 0
    assert [one["file_name"] for one in records(out.read_text())] == [
        "../pictures/blue.png",
        "../pictures/lime.png",
        "../other/red.png",
    ]
    assert vlv("caption", pictures, *arguments, "--overwrite", "--prepend", "new").code == 0
    texts = {one["file_name"]: one["text"] for one in records(out.read_text())}
    assert texts == {
        "../other/red.png": CAPTIONS["red"],
        "../pictures/blue.png": "new " + CAPTIONS["blue"],
        "../pictures/lime.png": "new " + CAPTIONS["lime"],
    }


def test_generation_flags_reach_the_model(vlv: Callable, pictures: Path) -> None:
    red = pictures / "red.png"
    assert vlv("caption", red, "--prepend", "ohwx,", "--append", "4k").out == (
        f"ohwx, {CAPTIONS['red']} 4k\n"
    )
    cut = ["caption", red, "--max_new_tokens", 9]
    (short,) = records(vlv(*cut, "--json").out)
    assert short["tokens"] == 9 and not short["ended"]
    (whole,) = records(vlv("caption", red, "--json").out)
    limit = whole["tokens"] - 1
    kept = vlv("caption", red, "--max_new_tokens", limit, "--keep-unfinished").out
    dropped = vlv("caption", red, "--max_new_tokens", limit, "--drop-unfinished").out
    assert kept.startswith(dropped.strip()) and len(kept) > len(dropped)
    (long,) = records(vlv("caption", red, "--min_new_tokens", 30, "--json").out)
    assert long["tokens"] >= 30
    sampled = ["caption", red, "--temperature", 4.0, "--top_p", 0.99, "--max_new_tokens", 20]
    assert vlv(*sampled, "--seed", 1).out == vlv(*sampled, "--seed", 1).out
    assert vlv(*sampled, "--seed", 1).out != vlv(*sampled, "--seed", 2).out


@pytest.mark.parametrize("cold", ["5e-324", "1e-40", "1e-12"])
def test_the_coldest_draw_is_the_likeliest_caption(
    vlv: Callable, pictures: Path, cold: str
) -> None:
    red = ["caption", pictures / "red.png", "--max_new_tokens", 40]
    likeliest = vlv(*red, "--num_beams", 1).out
    assert vlv(*red, "--temperature", cold).out == likeliest
    assert vlv(*red, "--temperature", cold, "--top_p", "1e-300").out == likeliest
    beams = ["--num_beams", 3]
    assert vlv(*red, "--temperature", cold, *beams).out == vlv(*red, *beams).out
    several = vlv(*red, "--temperature", cold, "--num_return_sequences", 2).out
    assert set(several.splitlines()) == set(likeliest.splitlines())


def test_several_captions_an_image(vlv: Callable, pictures: Path) -> None:
    red = pictures / "red.png"
    three = ["--num_return_sequences", 3, "--max_new_tokens", 30]
    lines = vlv("caption", red, *three).out.splitlines()
    assert lines[0] == CAPTIONS["red"] and len(set(lines)) == 3
    table = vlv("caption", pictures, *three).out.splitlines()
    assert [line.split("\t")[0].rsplit("/")[-1] for line in table] == [
        f"{color}.png" for color in ("blue", "lime", "red") for _ in range(3)
    ]
    (record,) = records(vlv("caption", red, *three, "--json", "--append", "4k").out)
    assert record["texts"] == [f"{line} 4k" for line in lines]
    assert record["text"] == record["texts"][0]
    assert vlv("caption", red, *three, "--output_format", "txt").code == 0
    assert (pictures / "red.txt").read_text().splitlines() == lines
    assert vlv("caption", red, *three, "--output_format", "jsonl").code == 0
    metadata = pictures / "metadata.jsonl"
    expected = {"file_name": "red.png", "text": lines[0], "texts": lines}
    assert records(metadata.read_text()) == [expected]
    again = vlv("caption", red, "--output_format", "jsonl", "--overwrite", "--append", "4k")
    assert again.code == 0
    assert records(metadata.read_text()) == [{"file_name": "red.png", "text": f"{lines[0]} 4k"}]


def test_the_preset_sets_defaults_and_flags_win(
    vlv: Callable, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = CaptionDecoder.generate

    def generate(self: CaptionDecoder, c: torch.Tensor, **settings: Any) -> Any:
        seen.append({**settings, "dtype": self.lm.dtype})
        return real(self, c, **settings)

    monkeypatch.setattr(CaptionDecoder, "generate", generate)
    ran = vlv("caption", pictures / "red.png", "--preset", "authors", "--json")
    assert ran.code == 0
    assert "crop_size None instead of 384" in ran.err
    wins = ["--num_beams", 2, "--max_new_tokens", 12, "--dtype", "float32"]
    assert vlv("caption", pictures / "red.png", "--preset", "authors", *wins).code == 0
    assert vlv("caption", pictures / "red.png").code == 0
    names = ("num_beams", "max_new_tokens", "early_stopping", "dtype")
    assert [tuple(call[name] for name in names) for call in seen] == [
        (4, 300, True, torch.bfloat16),
        (2, 12, True, torch.float32),
        (4, 300, False, torch.float32),
    ]


def test_ways_to_need_less_memory(vlv: Callable, pictures: Path) -> None:
    for flags in (["--offload"], ["--batch_size", "auto"]):
        ran = vlv("caption", pictures, *flags)
        assert (ran.code, ran.err) == (0, "")
        assert [line.split("\t")[1] for line in ran.out.splitlines()] == [
            CAPTIONS[color] for color in ("blue", "lime", "red")
        ]
    ran = vlv("caption", pictures / "red.png", "--quantization", "8bit")
    assert (ran.code, ran.out, ran.err) == (0, CAPTIONS["red"] + "\n", "")


@pytest.mark.parametrize(
    "flags",
    [
        ["--top_p", "0.5"],
        ["--num_return_sequences", "5"],
        ["--batch_size", "0"],
        ["--batch_size", "some"],
        ["--batch_size", "auto", "--temperature", "1", "--num_beams", "2"],
        ["--preset", "paper"],
        ["--quantization", "2bit"],
        ["--quantization", "8bit", "--offload"],
        ["--min_new_tokens", "9", "--max_new_tokens", "3"],
        ["--output", "x.jsonl"],
        ["--output_format", "json"],
        ["--output_format", "parquet"],
        ["--output_format", "parquet", "--output", "."],
        ["--filelist", "-", "-"],
        ["--output_format", "jsonl", "--output", "."],
        ["--output_format", "csv"],
        ["--dtype", "float8"],
        ["--device", "toaster"],
        ["--num-queries", "7"],
        ["--num-queries", "0"],
    ],
)
def test_wrong_use(vlv: Callable, pictures: Path, flags: list[str]) -> None:
    ran = vlv("caption", pictures, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err


def test_captions_of_the_first_embeddings(
    vlv: Callable, pictures: Path, tiny_model_dir: Path
) -> None:
    flags = ["--num-queries", 2, "--max-new-tokens", 8, "--keep-unfinished", "--json"]
    made = records(vlv("caption", pictures, *flags).out)
    model = VLV.from_pretrained(tiny_model_dir)
    z = model.encode([plain(color) for color in ("blue", "lime", "red")])
    expected = model.caption_from_z(z[:, :2], num_beams=4, max_new_tokens=8)
    assert [one["text"] for one in made] == expected
    assert expected != model.caption_from_z(z, num_beams=4, max_new_tokens=8)


def test_a_model_that_is_not_there_is_no_wrong_use(vlv: Callable, pictures: Path) -> None:
    ran = vlv("caption", pictures, "--model", "/no/such/folder")
    assert (ran.code, ran.out) == (3, "") and "/no/such/folder" in ran.err


def test_nothing_to_do_is_reported(vlv: Callable, tmp_path: Path) -> None:
    ran = vlv("caption", tmp_path)
    assert ran.code == 1
    assert "there is no image in" in ran.err


def test_file_names_that_are_no_unicode(vlv: Callable, pictures: Path) -> None:
    name = b"\xff\xfe.png".decode(errors="surrogateescape")
    (pictures / "red.png").rename(pictures / name)
    ran = vlv("caption", pictures)
    assert ran.code == 0
    assert CAPTIONS["red"] in ran.out
    assert vlv("caption", pictures, "--output_format", "jsonl").code == 0
    assert vlv("caption", pictures, "--json").code == 0


def test_a_dry_run_states_what_would_be_done_and_writes_nothing(
    vlv: Callable, pictures: Path
) -> None:
    (pictures / "red.txt").write_text("mine")
    before = sorted(pictures.iterdir())
    ran = vlv("caption", pictures, pictures / "x.png", "--output-format", "txt", "--dry-run")
    assert ran.code == 1  # the one that is missing is named
    first, each, nothing, *shown = ran.out.splitlines()
    assert (
        first == "4 images: 3 to caption, 1 with captions that stay "
        "(--overwrite replaces those that vlv wrote)"
    )
    assert each.startswith("about 1 s (") and "on cpu, measured on 2" in each
    assert nothing.startswith("nothing was written")
    assert shown == [
        f"{pictures / 'blue.png'}\t{CAPTIONS['blue']}",
        f"{pictures / 'lime.png'}\t{CAPTIONS['lime']}",
    ]
    assert sorted(pictures.iterdir()) == before
    shards = pictures / "deep" / "shards"
    ran = vlv(
        "caption", pictures, "--dry-run", "--json", "--trigger", "ohwx",
        "--output-format", "webdataset", "--output", shards,
    )  # fmt: skip
    (plan,) = records(ran.out)
    assert (plan["to_caption"], plan["kept"], plan["sets"]) == (3, 0, 0)
    assert plan["seconds"] > 0 and not shards.parent.exists()
    assert plan["preview"][0]["text"] == f"ohwx, {CAPTIONS['blue']}"


def test_a_dry_run_captions_the_first_images_only(vlv: Callable, pictures: Path) -> None:
    for number in range(20):
        plain("red").save(pictures / f"z{number}.png")
    (plan,) = records(vlv("caption", pictures, "--dry-run", "--json", "--batch-size", 4).out)
    assert plan["to_caption"] == 23 and len(plan["preview"]) == 8


def test_only_missing_names_the_default(vlv: Callable, pictures: Path) -> None:
    (pictures / "red.txt").write_text("mine")
    ran = vlv("caption", pictures, "--output-format", "txt", "--only-missing")
    assert ran.code == 0 and ran.out.startswith("2 captions written, 1 left as they are")
    assert (pictures / "red.txt").read_text() == "mine"
    for flags in (["--overwrite", "--output-format", "txt"], []):
        ran = vlv("caption", pictures, "--only-missing", *flags)
        assert ran.code == 2 and "--only-missing" in ran.err


def test_a_trigger_begins_each_caption_once(vlv: Callable, pictures: Path) -> None:
    ran = vlv("caption", pictures / "red.png", pictures / "lime.png", "--trigger", "a red")
    assert [line.split("\t")[1] for line in ran.out.splitlines()] == [
        CAPTIONS["red"],
        f"a red, {CAPTIONS['lime']}",
    ]


def test_a_long_job_shows_its_first_captions(vlv: Callable, pictures: Path) -> None:
    for number in range(97):
        plain("red").save(pictures / f"z{number}.png")
    ran = vlv("caption", pictures, "--output-format", "txt", "--num-beams", 1)
    assert ran.code == 0
    shown = [line for line in ran.err.splitlines() if line.startswith("vlv: preview: ")]
    assert shown == [
        f"vlv: preview: {pictures / f'{color}.png'}: {CAPTIONS[color]}"
        for color in ("blue", "lime", "red")
    ]
