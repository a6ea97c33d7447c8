"""`VLV.caption` does what `vlv caption` does: the same texts, settings and warnings."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.tiny import plain, tiny_model_dir

from vlv import VLV, load_image
from vlv.data.world_sets import world_samples
from vlv.errors import ConfigError, ImageError, OutOfDistributionWarning

__all__ = ["tiny_model_dir"]


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    (sample,) = world_samples(1, seed=3, split="test")
    return sample.picture()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of a few scenes, one of them larger than the encoder's images."""
    folder = tmp_path_factory.mktemp("scenes")
    files = []
    for sample in world_samples(4, seed=5, split="test"):
        picture = sample.picture()
        side = 150 if not files else picture.width
        files.append(folder / f"{sample.key}.png")
        picture.resize((side, side)).save(files[-1])
    return files


def written(ran: object) -> list[str]:
    return [line.split("\t")[1] for line in ran.out.splitlines()]


def test_default_captions_are_those_of_the_command(
    vlv: Callable, mini: VLV, scenes: list[Path]
) -> None:
    captions = mini.caption([load_image(file) for file in scenes])
    assert captions == written(vlv("caption", *scenes))
    assert len(set(captions)) == len(scenes)
    # A caption does not depend on who decodes the file.
    assert captions[0] == mini.caption(Image.open(scenes[0]))[0]


def test_captions_that_are_cut_off_are_cleaned_as_by_the_command(
    vlv: Callable, mini: VLV, scenes: list[Path]
) -> None:
    images = [load_image(file) for file in scenes]
    short = {"num_beams": 1, "max_new_tokens": 16}
    flags = ["--num-beams", 1, "--max-new-tokens", 16]
    cleaned = mini.caption(images, **short)
    assert cleaned == written(vlv("caption", *scenes, *flags))
    raw = mini.caption(images, **short, drop_unfinished=False)
    assert raw == written(vlv("caption", *scenes, *flags, "--keep-unfinished"))
    assert raw != cleaned


def test_several_captions_of_an_image_are_side_by_side(
    vlv: Callable, mini: VLV, scenes: list[Path]
) -> None:
    images = [load_image(file) for file in scenes[:2]]
    captions = mini.caption(images, num_return_sequences=2, max_new_tokens=40)
    ran = vlv("caption", *scenes[:2], "--num-return-sequences", 2, "--max-new-tokens", 40)
    assert len(captions) == 4 and captions == written(ran)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beams": 2}, "'beams'.*num_beams"),
        ({"do_sample": True}, "'do_sample'.*temperature"),
        ({"num_return_sequences": 9}, "num_return_sequences"),
        ({"cleaning": None}, "'cleaning'.*drop_unfinished"),
    ],
)
def test_a_wrong_setting_is_named(mini: VLV, scene: Image.Image, wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mini.caption(scene, **wrong)


def test_out_of_distribution_images_are_named_once_in_a_call(
    mini: VLV, scene: Image.Image, tmp_path: Path
) -> None:
    plain("blue").save(tmp_path / "blue.png")
    images = [plain("red"), scene, Image.open(tmp_path / "blue.png")]
    with pytest.warns(OutOfDistributionWarning, match=r"2 of 3 .*\(image 0, .*blue\.png\)") as seen:
        captions = mini.caption(images, num_beams=1, max_new_tokens=4)
    assert len(captions) == 3 and len(seen) == 1
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mini.caption(scene, num_beams=1, max_new_tokens=4)


def test_an_image_that_does_not_decode_is_named_before_any_work(
    mini: VLV, scene: Image.Image, tmp_path: Path
) -> None:
    scene.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-200])
    for work in (mini.caption, mini.encode, mini.reconstruct):
        # Opened anew each time: Pillow reads the pixels when they are needed.
        with pytest.raises(ImageError, match=r"cut\.png cannot be decoded"):
            work([scene, Image.open(tmp_path / "cut.png")])


def test_the_caption_decoder_has_its_old_name_too(tiny_model_dir: Path) -> None:
    opened = VLV.from_pretrained(tiny_model_dir)
    with pytest.warns(DeprecationWarning, match="caption_decoder"):
        assert opened.captioner is opened.caption_decoder
