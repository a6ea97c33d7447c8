"""From a file to pixel values and prompt ids, against Florence-2's own processor of transformers.

The photographs are those that scikit-image carries; nothing is downloaded.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor
from transformers import Florence2Processor, RobertaTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlv.checkpoints.boxes import load_encoder, save_encoder
from vlv.checkpoints.parts import ENCODER_SETTINGS_FILE
from vlv.data.images import load_image
from vlv.models.config import IMAGE_STD, EncoderConfig, EncoderSettings
from vlv.models.encoder import TASK_PROMPTS, VLVEncoder
from vlv.models.model_config import VLVConfig
from vlv.models.preprocessing import (
    center_crop,
    decoder_pixels,
    encoder_pixels,
    resize_shorter_side,
)

Pixels = NDArray[np.uint8]

# The numbers that Florence-2 is published with (preprocessor_config.json).
PUBLISHED = {
    "do_resize": True,
    "size": {"height": 768, "width": 768},
    "resample": 3,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "image_seq_length": 577,
}
PHOTOGRAPHS = {
    "astronaut": skimage.data.astronaut,  # 512x512
    "chelsea": skimage.data.chelsea,  # 451x300
    "coffee": skimage.data.coffee,  # 600x400
    "rocket": skimage.data.rocket,  # 640x427
}
# Equal bytes, normalised in float32 in two orders; a level of 255 is 0.004.
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def tokenizer(
    florence_tokenizer: RobertaTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> RobertaTokenizer:
    """With the placeholder for image tokens, which Florence-2's processor needs."""
    folder = tmp_path_factory.mktemp("tokenizer")
    florence_tokenizer.save_pretrained(folder)
    named = {"image_token": "<image>"}
    return RobertaTokenizer.from_pretrained(folder, extra_special_tokens=named)


@pytest.fixture(scope="module")
def processor(tokenizer: RobertaTokenizer) -> Florence2Processor:
    return Florence2Processor(CLIPImageProcessorPil(**PUBLISHED), tokenizer)


@pytest.fixture(scope="module")
def encoder(tiny_config: VLVConfig, tokenizer: RobertaTokenizer) -> VLVEncoder:
    """Looks at 768x768, whole pictures; its network, made for less, is not run."""
    return _encoder(tiny_config, tokenizer, crop_size=None)


@pytest.fixture(scope="module")
def cropping_encoder(tiny_config: VLVConfig, tokenizer: RobertaTokenizer) -> VLVEncoder:
    """The authors' sizes: a crop of 384x384, enlarged to 768x768."""
    return _encoder(tiny_config, tokenizer, crop_size=384)


def _encoder(config: VLVConfig, tokenizer: RobertaTokenizer, crop_size: int | None) -> VLVEncoder:
    sizes = {"image_size": 768, "crop_size": crop_size}
    encoder = EncoderConfig.model_validate({**config.encoder.model_dump(), **sizes})
    return VLVEncoder.from_config(encoder, tokenizer, {"clip": 16})


def published(processor: Florence2Processor, pixels: Pixels) -> Tensor:
    """(1,3,768,768) by transformers, of bytes (H,W,3)."""
    return processor.image_processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of a pixel before normalisation, white being 1."""
    assert ours.shape == theirs.shape == (1, 3, 768, 768)
    assert ours.dtype == torch.float32
    std = torch.tensor(IMAGE_STD).reshape(3, 1, 1)
    return float(((ours - theirs) * std).abs().max())


def authors_crop(pixels: Pixels, size: int) -> Pixels:
    """torchvision's Resize(size) and CenterCrop(size) by their documented formulas.

    Resize: the smaller edge becomes size, the larger int(size * larger / smaller); on PIL images
    by Pillow's bilinear filter. CenterCrop: top = int(round((height - size) / 2.0)), left alike.
    """
    height, width = pixels.shape[:2]
    smaller, larger = min(height, width), max(height, width)
    long = int(size * larger / smaller)
    new_height, new_width = (size, long) if height == smaller else (long, size)
    resized = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BILINEAR)
    top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def checkerboard(height: int, width: int) -> Pixels:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)


def gradient(height: int, width: int) -> Pixels:
    down, right = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    return np.stack(np.broadcast_arrays(down, right, 255 - down), axis=2).astype(np.uint8)


def plain(value: int, height: int, width: int) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


EXTREMES = {
    "checkerboard of 1 px": checkerboard(901, 640),
    "checkerboard, enlarged": checkerboard(97, 130),
    "gradient": gradient(333, 777),
    "black": plain(0, 200, 300),
    "white": plain(255, 1000, 900),
    "noise": noise(512, 683),
    "noise, large": noise(1531, 2041),
    "noise, right already": noise(768, 768),
    "noise, the crop's size": noise(384, 384),
    "noise, a pixel off": noise(769, 767),
    "noise, a pixel off the crop": noise(385, 383),
    "noise, 33:1": noise(60, 1999),
    "one pixel": noise(1, 1),
    "two pixels": noise(2, 1),
    "a column": noise(10_000, 1),
    "a row": noise(1, 10_000),
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_become_what_florence_2_was_trained_on(
    encoder: VLVEncoder, processor: Florence2Processor, name: str
) -> None:
    photograph = PHOTOGRAPHS[name]()
    ours = encoder.preprocess([Image.fromarray(photograph)])
    assert difference(ours, published(processor, photograph)) < ROUNDING
    assert ours.std() > 0.5  # a photograph has contrast


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_become_what_florence_2_was_trained_on(
    encoder: VLVEncoder, processor: Florence2Processor, name: str
) -> None:
    ours = encoder.preprocess([Image.fromarray(EXTREMES[name])])
    assert difference(ours, published(processor, EXTREMES[name])) < ROUNDING


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_crop_is_the_authors(
    cropping_encoder: VLVEncoder, processor: Florence2Processor, name: str
) -> None:
    photograph = PHOTOGRAPHS[name]()
    expected = authors_crop(photograph, 384)
    ours = cropping_encoder.preprocess([Image.fromarray(photograph)])
    assert difference(ours, published(processor, expected)) < ROUNDING


@pytest.mark.parametrize("name", [name for name in EXTREMES if name not in ("a column", "a row")])
def test_the_crop_of_extremes_is_the_authors(
    cropping_encoder: VLVEncoder, processor: Florence2Processor, name: str
) -> None:
    expected = authors_crop(EXTREMES[name], 384)
    ours = cropping_encoder.preprocess([Image.fromarray(EXTREMES[name])])
    assert difference(ours, published(processor, expected)) < ROUNDING


@pytest.mark.parametrize("shape", [(400, 1), (3, 1201), (90, 40_000), (32_001, 80)])
def test_the_crop_of_a_strip_is_that_of_the_strip_resized_whole(shape: tuple[int, int]) -> None:
    strip = noise(*shape)
    ours = decoder_pixels(Image.fromarray(strip), 384).astype(int)
    assert np.abs(ours - authors_crop(strip, 384)).max() <= 1  # of 50 to 70 megapixels


@pytest.mark.parametrize("lying", [True, False])
def test_the_longest_strip_shows_its_middle(lying: bool) -> None:
    """From the middle of one pixel to the middle of the next, linearly: 2 of 10,000 are seen."""
    strip = plain(0, 10_000, 1)
    strip[5000:] = 255
    ramp = np.broadcast_to(255 * (np.arange(384)[:, None, None] + 0.5) / 384, (384, 384, 3))
    if lying:
        strip, ramp = strip.swapaxes(0, 1), ramp.swapaxes(0, 1)
    ours = decoder_pixels(Image.fromarray(strip), 384)
    np.testing.assert_allclose(ours.astype(float), ramp, atol=1)
    assert encoder_pixels(Image.fromarray(strip), 768, 384).shape == (768, 768, 3)


def test_a_strip_takes_no_more_memory_than_a_photograph() -> None:
    """384 x 768,000,000 pixels would be a terabyte; the process may have one gigabyte."""
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))
from PIL import Image
from vlv.models.preprocessing import decoder_pixels, encoder_pixels
for size in [(1, 2_000_000), (2_000_000, 1)]:
    strip = Image.new("RGB", size, (1, 2, 3))
    for pixels in (encoder_pixels(strip, 768), decoder_pixels(strip, 384)):
        assert (pixels == (1, 2, 3)).all()
"""
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=one_thread)


@pytest.mark.parametrize(
    ("sides", "resized"),
    [
        ((640, 427), (575, 384)),  # 575.55
        ((427, 640), (384, 575)),
        ((451, 300), (577, 384)),  # 577.28
        ((512, 512), (384, 384)),
        ((1, 3), (384, 1152)),
        ((384, 999), (384, 999)),
    ],
)
def test_the_longer_side_is_rounded_down(sides: tuple[int, int], resized: tuple[int, int]) -> None:
    assert resize_shorter_side(Image.new("RGB", sides), 384).size == resized


@pytest.mark.parametrize(("side", "first"), [(10, 0), (11, 0), (12, 1), (13, 2), (15, 2)])
def test_the_middle_between_two_pixels_is_the_even_one(side: int, first: int) -> None:
    columns = np.broadcast_to(np.arange(side, dtype=np.uint8), (10, side))
    assert np.asarray(center_crop(Image.fromarray(columns), 10))[0].tolist() == list(
        range(first, first + 10)
    )
    rows = np.asarray(center_crop(Image.fromarray(columns.T), 10))[:, 0]
    assert rows.tolist() == list(range(first, first + 10))


def test_no_crop_larger_than_the_picture() -> None:
    with pytest.raises(ValueError, match="cannot crop 10x10 out of 12x9 pixels"):
        center_crop(Image.new("RGB", (12, 9)), 10)


def test_encoder_and_vae_see_the_same_crop(cropping_encoder: VLVEncoder) -> None:
    """Training holds 384 px crops for the VAE; inference starts from the photograph."""
    photographs = [Image.fromarray(load()) for load in PHOTOGRAPHS.values()]
    crops = np.stack([decoder_pixels(photograph, 384) for photograph in photographs])
    for crop, load in zip(crops, PHOTOGRAPHS.values(), strict=True):
        assert np.array_equal(crop, authors_crop(load(), 384))
    expected = cropping_encoder.preprocess(photographs)
    assert torch.equal(cropping_encoder.preprocess_uint8(torch.from_numpy(crops)), expected)
    ready = np.stack([encoder_pixels(photograph, 768, 384) for photograph in photographs])
    assert torch.equal(cropping_encoder.preprocess_uint8(torch.from_numpy(ready)), expected)


def test_bytes_of_other_sizes_are_refused(
    encoder: VLVEncoder, cropping_encoder: VLVEncoder
) -> None:
    bytes_of = {size: torch.zeros(1, size, size, 3, dtype=torch.uint8) for size in (384, 512)}
    with pytest.raises(ValueError, match=r"\(B,384,384,3\) or \(B,768,768,3\), got .*512"):
        cropping_encoder.preprocess_uint8(bytes_of[512])
    with pytest.raises(ValueError, match=r"expected uint8 pixels \(B,768,768,3\), got .*384"):
        encoder.preprocess_uint8(bytes_of[384])
    with pytest.raises(ValueError, match="expected uint8"):
        cropping_encoder.preprocess_uint8(bytes_of[384].float())


# How a picture lies in a file, by EXIF orientation: what the first row and the first column of
# the stored pixels are in the upright picture (Exif, tag 274).
TURNED = {5, 6, 7, 8}  # the first row is the left or right side
ROWS_REVERSED = {3, 4, 6, 7}  # the first row is the bottom or right side
COLUMNS_REVERSED = {2, 3, 7, 8}  # the first column is the right side or the bottom


def _flipped(pixels: Pixels, orientation: int) -> Pixels:
    pixels = pixels[::-1] if orientation in ROWS_REVERSED else pixels
    return pixels[:, ::-1] if orientation in COLUMNS_REVERSED else pixels


def stored(upright: Pixels, orientation: int) -> Pixels:
    turned = upright.swapaxes(0, 1) if orientation in TURNED else upright
    return np.ascontiguousarray(_flipped(turned, orientation))


def upright(stored: Pixels, orientation: int) -> Pixels:
    turned = _flipped(stored, orientation)
    return np.ascontiguousarray(turned.swapaxes(0, 1) if orientation in TURNED else turned)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*((name, ".jpg") for name in PHOTOGRAPHS), ("chelsea", ".png"), ("coffee", ".png")],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_from_file_to_pixel_values(
    encoder: VLVEncoder,
    cropping_encoder: VLVEncoder,
    processor: Florence2Processor,
    tmp_path: Path,
    name: str,
    suffix: str,
    orientation: int,
) -> None:
    photograph, file = PHOTOGRAPHS[name](), (tmp_path / name).with_suffix(suffix)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 95} if suffix == ".jpg" else {"compress_level": 1}
    Image.fromarray(stored(photograph, orientation)).save(file, exif=exif, **options)
    with Image.open(file) as image:
        shown = upright(np.asarray(image), orientation)
    assert np.abs(shown.astype(int) - photograph).mean() < (4 if suffix == ".jpg" else 1e-9)

    image = load_image(file)
    whole = published(processor, shown)
    assert difference(encoder.preprocess([image]), whole) < ROUNDING
    crop = published(processor, authors_crop(shown, 384))
    assert difference(cropping_encoder.preprocess([image]), crop) < ROUNDING


@pytest.mark.parametrize("task", TASK_PROMPTS)
def test_prompt_ids_are_those_of_the_processor(
    tiny_config: VLVConfig, tokenizer: RobertaTokenizer, processor: Florence2Processor, task: str
) -> None:
    config = EncoderConfig.model_validate({**tiny_config.encoder.model_dump(), "prompt": task})
    encoder = VLVEncoder.from_config(config, tokenizer, {"clip": 16})
    image = Image.fromarray(skimage.data.chelsea())
    ids = processor(images=image, text=task, return_tensors="pt")["input_ids"]
    assert (ids[0, :577] == tokenizer.image_token_id).all()
    assert torch.equal(encoder.prompt_ids, ids[:, 577:])


def test_the_prompt_is_the_most_detailed_one(encoder: VLVEncoder) -> None:
    assert encoder.settings.prompt == "<MORE_DETAILED_CAPTION>"


def test_the_crop_is_stored_and_older_files_have_none(
    tiny_config: VLVConfig, tokenizer: RobertaTokenizer, tmp_path: Path
) -> None:
    sizes = {**tiny_config.encoder.model_dump(), "crop_size": 384}
    encoder = VLVEncoder.from_config(EncoderConfig.model_validate(sizes), tokenizer, {"clip": 16})
    save_encoder(encoder, tmp_path)
    assert load_encoder(tmp_path).settings.crop_size == 384
    file = tmp_path / ENCODER_SETTINGS_FILE
    settings = json.loads(file.read_text())
    del settings["crop_size"]
    file.write_text(json.dumps(settings))
    assert load_encoder(tmp_path).settings.crop_size is None
    with pytest.raises(ValueError, match="crop_size"):
        EncoderSettings(crop_size=0)
