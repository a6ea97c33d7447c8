"""`vlv.caption_dataset`: a column of images gives a column of captions, in datasets and streams."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from tests.tiny import CAPTIONS, plain, png, tiny_model_dir

import vlv
from vlv.errors import ConfigError

__all__ = ["tiny_model_dir"]

COLORS = list(CAPTIONS)


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> vlv.VLV:
    return vlv.VLV.from_pretrained(tiny_model_dir)


def rows() -> dict[str, list[Any]]:
    """Three good images and a damaged one, with a column of something else."""
    images = [{"bytes": png(color), "path": f"{color}.png"} for color in COLORS]
    images.insert(1, {"bytes": png("red")[:60], "path": "torn.png"})
    return {"image": images, "id": [0, 1, 2, 3]}


def dataset() -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "id": datasets.Value("int64")})
    return datasets.Dataset.from_dict(rows(), features=features)


WANTED = [CAPTIONS["red"], None, CAPTIONS["blue"], CAPTIONS["lime"]]


def test_a_dataset_gets_captions_and_keeps_its_bad_rows(model: vlv.VLV) -> None:
    made = vlv.caption_dataset(dataset(), model, batch_size=2)
    assert made["caption"][:] == WANTED and made["id"][:] == [0, 1, 2, 3]
    errors = made["caption_error"][:]
    assert [one is None for one in errors] == [True, False, True, True]
    assert "truncated" in errors[1]
    assert made.features["image"] == datasets.Image()
    assert isinstance(made[0]["image"], Image.Image)
    assert made["caption_in_distribution"][:] == [None] * 4  # this model has no detector


def test_a_stream_is_captioned_as_it_is_read(model: vlv.VLV) -> None:
    made = vlv.caption_dataset(dataset().to_iterable_dataset(), model, batch_size=2)
    assert isinstance(made, datasets.IterableDataset)
    read = []
    for row in made.cast_column("image", datasets.Image(decode=False)):
        read.append(row["caption"])
    assert read == WANTED


@pytest.mark.parametrize("kind", ["arrow", "numpy", "pandas", "torch"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_format_of_rows_is_kept(model: vlv.VLV, kind: str, streamed: bool) -> None:
    data = dataset().remove_columns("image").add_column("image", [*map(png, COLORS), None])
    data = data.to_iterable_dataset() if streamed else data
    made = vlv.caption_dataset(data.with_format(kind), model, batch_size=2)
    assert type(next(iter(made))) is type(next(iter(data.with_format(kind))))
    captions = [row["caption"] for row in made.with_format(None)]
    assert captions == [*CAPTIONS.values(), None]


@pytest.mark.parametrize("streamed", [False, True])
def test_images_of_datasets_are_read_in_a_format_of_tables(model: vlv.VLV, streamed: bool) -> None:
    data = dataset().to_iterable_dataset() if streamed else dataset()
    made = vlv.caption_dataset(data.with_format("arrow"), model, batch_size=2)
    undecoded = made.cast_column("image", datasets.Image(decode=False))
    assert [row["caption"][0].as_py() for row in undecoded] == WANTED
    assert made.features["image"] == datasets.Image()


def test_a_transform_gets_images_as_before_and_columns_stay_chosen(model: vlv.VLV) -> None:
    seen: list[Any] = []

    def look(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        seen.append(batch)
        return {"size": [one.size for one in batch["image"]], "caption": batch["caption"]}

    made = vlv.caption_dataset(dataset().select([0, 2]).with_transform(look), model)
    assert seen == []  # nothing is transformed to be captioned
    assert made[0] == {"size": (32, 32), "caption": CAPTIONS["red"]}
    chosen = vlv.caption_dataset(dataset().with_format("numpy", columns=["id"]), model)
    assert set(chosen[0]) == {"id", "caption", "caption_error", "caption_in_distribution"}
    assert chosen.format["type"] == "numpy"


def test_a_stream_that_does_not_name_its_columns(model: vlv.VLV) -> None:
    def generate() -> Any:
        for color in COLORS:
            yield {"picture": plain(color)}

    stream = datasets.IterableDataset.from_generator(generate)
    made = vlv.caption_dataset(stream, model, image_column="picture", caption_column="text")
    assert [row["text"] for row in made] == list(CAPTIONS.values())


def test_names_of_files_and_splits(model: vlv.VLV, tmp_path: Path) -> None:
    plain("blue").save(tmp_path / "a.png")
    names = [str(tmp_path / "a.png"), str(tmp_path / "none.png"), None]
    splits = datasets.DatasetDict(train=datasets.Dataset.from_dict({"image": names}))
    made = vlv.caption_dataset(splits, model)
    assert made["train"]["caption"][:] == [CAPTIONS["blue"], None, None]
    assert "missing" in made["train"]["caption_error"][2]


def test_settings_are_those_of_caption(model: vlv.VLV) -> None:
    made = vlv.caption_dataset(dataset().select([0]), model, num_return_sequences=2)
    assert made["caption"][0] == model.caption(plain("red"), num_return_sequences=2)
    made = vlv.caption_dataset(dataset().select([0]), model, max_new_tokens=12)
    assert made["caption"][0] == "A red cube stands on the left."


@pytest.mark.parametrize("streamed", [False, True])
def test_samples_and_messages_are_of_the_row_whatever_the_batch(
    model: vlv.VLV, streamed: bool
) -> None:
    rows = datasets.Dataset.from_dict({"image": [png("red")] * 3 + [None]})
    settings: dict[str, Any] = {"temperature": 3.0, "min_new_tokens": 6, "max_new_tokens": 6}
    made = [
        list(
            vlv.caption_dataset(
                rows.to_iterable_dataset() if streamed else rows, model, batch_size=size, **settings
            )
        )
        for size in (1, 2, 4)
    ]
    captions = [row["caption"] for row in made[0]]
    assert captions == [*model.caption([plain("red")] * 3, **settings), None]
    assert len(set(captions)) > 2  # batches of one image are no copies of the first
    assert [[row["caption"] for row in one] for one in made] == [captions] * 3
    assert all("image 3 is missing" in one[3]["caption_error"] for one in made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "1 or more"),
        ({"image_column": "picture"}, "no column 'picture'; its columns are image, id"),
        ({"caption_column": "id"}, "a column 'id' already"),
        ({"beams": 2}, "num_beams"),
    ],
)
def test_wrong_use_is_named(model: vlv.VLV, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vlv.caption_dataset(dataset(), model, **arguments)
