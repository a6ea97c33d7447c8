"""`vlv reconstruct` and `vlv compose`: where pictures go and what is in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import CAPTIONS, plain

from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.pipeline import VLV

FAST = ["--num_inference_steps", "2", "--seed", "5"]


pytestmark = pytest.mark.usefixtures("use_tiny_model")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pixels(picture: Path | Image.Image) -> np.ndarray:
    image = Image.open(picture) if isinstance(picture, Path) else picture
    return np.asarray(image.convert("RGB")).astype(int)


def test_one_image(vlv: Callable, pictures: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    ran = vlv("reconstruct", pictures / "red.png", *FAST)
    assert (ran.code, ran.out) == (0, "red-reconstruction.png\n")
    model = VLV.from_pretrained(tiny_model_dir)
    (expected,) = model.reconstruct(plain("red"), seeds=[5], num_inference_steps=2).images
    assert np.abs(pixels(tmp_path / "red-reconstruction.png") - pixels(expected)).max() <= 1
    named = tmp_path / "deep" / "out.webp"
    assert vlv("reconstruct", pictures / "red.png", *FAST, "--out", named).code == 0
    assert Image.open(named).format == "WEBP"


def test_the_preset_sets_defaults_and_flags_win(
    vlv: Callable, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = DiffusionDecoder.generate

    def generate(self: DiffusionDecoder, c: torch.Tensor, **settings: Any) -> Any:
        names = ("guidance_scale", "num_inference_steps", "scheduler")
        seen.append((*(settings[name] for name in names), self.unet.dtype))
        return real(self, c, **settings)

    monkeypatch.setattr(DiffusionDecoder, "generate", generate)
    red = [pictures / "red.png", "--overwrite"]
    authors = ["--preset", "authors"]
    assert "crop_size None instead of 384" in vlv("reconstruct", *red, *authors).err
    flags = ["--guidance_scale", 3, "--num_inference_steps", 2, "--dtype", "float32"]
    assert vlv("reconstruct", *red, *authors, *flags, "--scheduler", "ddim").code == 0
    assert vlv("reconstruct", *red, *FAST).code == 0
    assert seen == [
        (2.0, 50, "ddpm", torch.bfloat16),
        (3.0, 2, "ddim", torch.float32),
        (2.0, 2, None, torch.float32),
    ]


def test_ways_to_need_less_memory(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    red = [pictures / "red.png", *FAST]
    assert vlv("reconstruct", *red, "--out", "usual.png").code == 0
    for flags in (["--offload"], ["--batch_size", "auto"]):
        ran = vlv("reconstruct", *red, *flags, "--out", "other.png", "--overwrite")
        assert (ran.code, ran.err) == (0, "")
        assert (pixels(tmp_path / "other.png") == pixels(tmp_path / "usual.png")).all()
    via = ["--via", "caption", "--quantization", "8bit", "--json"]
    (line,) = vlv("reconstruct", *red, *via).out.splitlines()
    assert json.loads(line)["caption"] == CAPTIONS["red"]
    half = ["--keep_a", 3, "--keep_b", 3]
    assert vlv("compose", *red[:1], *red, *half, "--offload").code == 0


def test_a_folder_of_images_and_a_bad_one(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    (pictures / "bad.png").write_text("x")
    plain("white").save(pictures / "red.jpg")
    ran = vlv("reconstruct", pictures, *FAST, "--out", tmp_path / "out", "--json")
    assert ran.code == 1
    assert "unknown-format" in ran.err
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line.get("error") for line in lines] == ["unknown-format"] + [None] * 4
    # red.jpg and red.png each have a picture of their own.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "blue-reconstruction.png",
        "lime-reconstruction.png",
        "red-reconstruction-2.png",
        "red-reconstruction.png",
    ]
    assert [line["out"] for line in lines[1:]] == [
        str(tmp_path / "out" / f"{name}.png")
        for name in (
            "blue-reconstruction",
            "lime-reconstruction",
            "red-reconstruction",
            "red-reconstruction-2",
        )
    ]


def test_saved_embeddings_draw_what_the_image_draws(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    assert vlv("encode", pictures, "--out", "z.safetensors").code == 0
    ran = vlv("reconstruct", "z.safetensors", *FAST, "--out", "from-z")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 3
    vlv("reconstruct", pictures / "lime.png", *FAST, "--out", "lime.png")
    drawn = tmp_path / "from-z" / "lime-reconstruction.png"
    assert np.abs(pixels(drawn) - pixels(tmp_path / "lime.png")).max() <= 1


def test_the_first_embeddings_draw_alone(
    vlv: Callable, pictures: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    assert vlv("encode", pictures / "red.png", "--out", "z.safetensors").code == 0
    for source, out in ((pictures / "red.png", "image.png"), ("z.safetensors", "z.png")):
        assert vlv("reconstruct", source, "--num-queries", 2, *FAST, "--out", out).code == 0
    model = VLV.from_pretrained(tiny_model_dir)
    z = model.encode(plain("red"))
    (expected,) = model.reconstruct(z[:, :2], seeds=[5], num_inference_steps=2).images
    (whole,) = model.reconstruct(z, seeds=[5], num_inference_steps=2).images
    assert np.abs(pixels(whole) - pixels(expected)).max() > 1
    for out in ("image.png", "z.png"):
        assert np.abs(pixels(tmp_path / out) - pixels(expected)).max() <= 1
    ran = vlv("reconstruct", "z.safetensors", "--num-queries", 7, *FAST, "--out", "none.png")
    assert ran.code == 2 and "num_queries must be 1 to 6" in ran.err
    assert not (tmp_path / "none.png").exists()


def test_via_caption(vlv: Callable, pictures: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    ran = vlv("reconstruct", pictures / "blue.png", "--via", "caption", *FAST, "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["caption"] == CAPTIONS["blue"]
    model = VLV.from_pretrained(tiny_model_dir)
    (expected,) = model.draw([CAPTIONS["blue"]], seeds=[5], num_inference_steps=2).images
    assert np.abs(pixels(tmp_path / "blue-reconstruction.png") - pixels(expected)).max() <= 1


def test_via_both(vlv: Callable, pictures: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    image = pictures / "blue.png"
    ran = vlv("reconstruct", image, "--via", "both", "--caption-start", 0.4, *FAST, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["caption"] == CAPTIONS["blue"]
    (expected,) = (
        VLV.from_pretrained(tiny_model_dir)
        .reconstruct(
            Image.open(image),
            captions=CAPTIONS["blue"],
            caption_start=0.4,
            seeds=[5],
            num_inference_steps=2,
        )
        .images
    )
    assert np.abs(pixels(tmp_path / "blue-reconstruction.png") - pixels(expected)).max() <= 1
    ran = vlv("reconstruct", image, "--via", "both", "--caption-start", 1, "--overwrite", *FAST)
    assert ran.code == 2 and "between 0 and 1" in ran.err
    ran = vlv("reconstruct", image, "--caption-start", 0.4, "--overwrite", *FAST)
    assert ran.code == 2 and "--caption-start needs --via both" in ran.err


def test_compare_shows_the_original_beside_the_reconstruction(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    for via in ("embeddings", "caption", "both"):
        arguments = ["--compare", "--via", via, "--out", f"{via}.png"]
        assert vlv("reconstruct", pictures / "lime.png", *FAST, *arguments).code == 0
        alone = tmp_path / f"{via}-alone.png"
        vlv("reconstruct", pictures / "lime.png", *FAST, "--via", via, "--out", alone)
        both = pixels(tmp_path / f"{via}.png")
        rows, columns = np.nonzero((both == (0, 255, 0)).all(axis=2))
        side = columns.max() + 1 - columns.min()
        assert side == rows.max() + 1 - rows.min() == 256
        enlarged = np.repeat(np.repeat(pixels(alone), 8, axis=0), 8, axis=1)
        right = both[rows.min() : rows.min() + 256, columns.max() + 1 :]
        found = [
            x
            for x in range(right.shape[1] - 255)
            if np.abs(right[:, x : x + 256] - enlarged).max() <= 1
        ]
        assert len(found) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["{pictures}", "--out", "one.png"],
        ["{pictures}/red.png", "--out", "one.xyz"],
        ["{pictures}/red.png", "--out", "{pictures}/red.png"],
        ["{pictures}/red.png", "--scheduler", "nonsense"],
        ["{pictures}/red.png", "--guidance_scale", "0.5"],
        ["z.safetensors", "--compare"],
        ["z.safetensors", "{pictures}/red.png"],
    ],
)
def test_wrong_use(vlv: Callable, pictures: Path, arguments: list[str]) -> None:
    before = (pictures / "red.png").read_bytes()
    assert vlv("encode", pictures / "red.png", "--out", "z.safetensors").code == 0
    ran = vlv("reconstruct", *(word.format(pictures=pictures) for word in arguments), *FAST)
    assert (ran.code, ran.out) == (2, "")
    assert (pictures / "red.png").read_bytes() == before


def test_the_original_is_kept_by_whatever_name_it_goes(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(pictures)
    before = (pictures / "red.png").read_bytes()
    for name in ("sub/../pictures/red.png", "link/red.png"):
        assert vlv("reconstruct", name, *FAST, "--out", "pictures/red.png").code == 2
    assert (pictures / "red.png").read_bytes() == before


def test_an_existing_file_is_replaced_only_when_asked(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    red, kept = pictures / "red.png", tmp_path / "kept.png"
    kept.write_text("precious")
    ways = (["reconstruct", red], ["compose", red, red, "--keep-a", 4, "--keep-b", 2])
    for way in ways:
        ran = vlv(*way, *FAST, "--out", kept)
        assert (ran.code, kept.read_text()) == (2, "precious")
        assert "--overwrite" in ran.err
    for way in ways:
        assert vlv(*way, *FAST, "--out", kept, "--overwrite").code == 0
        assert Image.open(kept).format == "PNG"


def test_a_place_that_cannot_be_written_costs_one_picture(
    vlv: Callable, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "lime-reconstruction.png").mkdir()
    ran = vlv("reconstruct", pictures, *FAST, "--overwrite")
    assert ran.code == 1
    assert "unwritable" in ran.err and "lime-reconstruction.png" in ran.err
    assert ran.out.splitlines() == ["blue-reconstruction.png", "red-reconstruction.png"]


def test_files_that_hold_no_embeddings(vlv: Callable, tmp_path: Path) -> None:
    (tmp_path / "z.safetensors").write_text("x")
    ran = vlv("reconstruct", "z.safetensors")
    assert ran.code == 1
    assert "z.safetensors" in ran.err


def test_compose(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    a, b = pictures / "red.png", pictures / "lime.png"
    ran = vlv("compose", a, b, "--keep-a", 4, "--keep_b", 2, *FAST, "--out", "ab.png")
    assert (ran.code, ran.out) == (0, "ab.png\n")
    last = ("--order", "trailing", "--out", "last.png")
    assert vlv("compose", a, b, "--keep-a", 4, "--keep_b", 2, *FAST, *last).code == 0
    assert (tmp_path / "last.png").read_bytes() != (tmp_path / "ab.png").read_bytes()
    vlv("compose", b, a, "--keep-a", 4, "--keep-b", 2, *FAST, "--out", "ba.png")
    assert (pixels(tmp_path / "ab.png") != pixels(tmp_path / "ba.png")).any()
    vlv("encode", b, "--out", "b.safetensors")
    vlv("compose", a, "b.safetensors", "--keep-a", 4, "--keep-b", 2, *FAST, "--out", "az.png")
    assert np.abs(pixels(tmp_path / "ab.png") - pixels(tmp_path / "az.png")).max() <= 1


def test_impossible_compositions(vlv: Callable, pictures: Path) -> None:
    a, b = pictures / "red.png", pictures / "lime.png"
    too_many = vlv("compose", a, b, "--keep-a", 7, "--keep-b", 2)
    assert too_many.code == 2
    assert "7 and 2" in too_many.err
    assert vlv("compose", a, b, "--keep-a", 1).code == 2
    assert vlv("compose", a, b, "--keep-a", 1, "--keep-b", 1, "--out", a).code == 2
    missing = vlv("compose", a, pictures / "no.png", "--keep-a", 1, "--keep-b", 1)
    assert (missing.code, missing.out) == (1, "")
    assert "no.png" in missing.err
