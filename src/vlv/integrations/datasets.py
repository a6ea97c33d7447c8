"""Captions for datasets of Hugging Face: a column of images gives a column of captions.

Datasets in memory and streams are alike. Images are decoded here, by the decoder that every command
uses, so that one bad image costs its row alone.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vlv.errors import ConfigError
from vlv.inference.batching import checked_size
from vlv.inference.captioning import caption_encoded
from vlv.inference.encoding import default_batch_size, encode_images
from vlv.inference.records import Captioned, Encoded, ImageInput, Refused
from vlv.pipeline import VLV, settings_of


def caption_dataset(
    dataset: Any,
    model: VLV | str | Path = "vlv-mini",
    *,
    image_column: str = "image",
    caption_column: str = "caption",
    batch_size: int | None = None,
    **settings: Any,
) -> Any:
    """The dataset with captions of its images, batch by batch: a `Dataset` at once, an
    `IterableDataset` as it is read, and each split of a dictionary of them.

    The column of images holds what `datasets.Image` does, PIL images, bytes, or names of files.
    Three columns are added, here under their default names:

    - `caption`: the caption, or the list of captions where num_return_sequences is above 1; None
      where the image cannot be read or the model writes nothing.
    - `caption_error`: why there is none, in a sentence; None elsewhere.
    - `caption_in_distribution`: whether the image is like those of training; None for a model
      without an OOD detector.

    model: an opened `VLV`, or what `VLV.from_pretrained` opens. `settings` are those of
    `VLV.caption`. A dataset is captioned again in each call: nothing is taken from its cache.

    Raises:
        ConfigError: there is no such column of images, a column of that name is there already, or
            a setting is wrong.
        CheckpointError: the model cannot be opened.
    """
    opened = model if isinstance(model, VLV) else VLV.from_pretrained(model)
    if isinstance(dataset, Mapping):
        kind: Any = type(dataset)  # DatasetDict, or IterableDatasetDict
        return kind(
            {
                name: caption_dataset(
                    split,
                    opened,
                    image_column=image_column,
                    caption_column=caption_column,
                    batch_size=batch_size,
                    **settings,
                )
                for name, split in dataset.items()
            }
        )
    wanted = settings_of(settings)
    size = default_batch_size(opened) if batch_size is None else batch_size
    checked_size(size)
    names = _Columns(caption_column)
    _check(dataset, image_column, names)

    def captioned(images: Sequence[Any], rows: Sequence[int]) -> dict[str, list[Any]]:
        inputs = [_input(row, one) for row, one in zip(rows, images, strict=True)]
        encoded = encode_images(opened, inputs, batch_size=size, num_queries=wanted.num_queries)
        # Samples depend on the row, and not on its place in a batch.
        numbered = (
            replace(one, number=row) if isinstance(one, Encoded) else one
            for row, one in zip(rows, encoded, strict=True)
        )
        results = caption_encoded(opened, numbered, wanted, batch_size=size)
        return names.of(list(results), several=wanted.num_return_sequences > 1)

    return _mapped(
        dataset, captioned, image_column, names, size, several=wanted.num_return_sequences > 1
    )


class _Columns:
    """The columns that are added."""

    def __init__(self, caption: str) -> None:
        self.caption = caption
        self.error = f"{caption}_error"
        self.in_distribution = f"{caption}_in_distribution"

    @property
    def names(self) -> list[str]:
        return [self.caption, self.error, self.in_distribution]

    def of(self, results: Sequence[Captioned | Refused], several: bool) -> dict[str, list[Any]]:
        good = [None if isinstance(one, Refused) else one for one in results]
        return {
            self.caption: [one and (one.texts if several else one.caption) for one in good],
            self.error: [one.message if isinstance(one, Refused) else None for one in results],
            self.in_distribution: [one and one.in_distribution for one in good],
        }

    def features(self, several: bool) -> dict[str, Any]:
        from datasets import List, Value

        text = Value("string")
        return {
            self.caption: List(text) if several else text,
            self.error: text,
            self.in_distribution: Value("bool"),
        }


def _check(dataset: Any, image_column: str, names: _Columns) -> None:
    known = dataset.column_names  # None for a stream that does not say
    if known is None:
        return
    if image_column not in known:
        raise ConfigError(
            f"the dataset has no column {image_column!r}; its columns are {', '.join(known)}: name "
            "one with image_column"
        )
    for name in names.names:
        if name in known:
            raise ConfigError(
                f"the dataset has a column {name!r} already; name another caption_column"
            )


def _mapped(
    dataset: Any, function: Any, image_column: str, names: _Columns, size: int, several: bool
) -> Any:
    """The dataset with the columns that the function makes of the images, which it gets undecoded;
    the column of images and the format of rows are as before.
    """
    import datasets

    formatted, dataset = dataset, dataset.with_format(None)
    before = None if dataset.features is None else dataset.features.copy()
    feature = None if before is None else before[image_column]
    if isinstance(feature, datasets.Image):
        dataset = dataset.cast_column(image_column, datasets.Image(decode=False))
    arguments: dict[str, Any] = {
        "batched": True,
        "batch_size": size,
        "with_indices": True,
        "input_columns": [image_column],
    }
    if dataset.features is not None:
        arguments["features"] = datasets.Features({**dataset.features, **names.features(several)})
    if isinstance(dataset, datasets.Dataset):
        # Else the model would be hashed, all of its weights.
        arguments |= {"new_fingerprint": uuid.uuid4().hex, "load_from_cache_file": False}
    made = dataset.map(function, **arguments)
    if isinstance(feature, datasets.Image):
        made = made.cast_column(image_column, feature)
    return _in_format_of(formatted, made, names)


def _in_format_of(before: Any, made: Any, names: _Columns) -> Any:
    """The dataset in the format of another one; of chosen columns, with those that are added."""
    import datasets

    if not isinstance(made, datasets.Dataset):
        kind = getattr(before, "_formatting", None)  # streams have no public word for it
        return made if kind is None else made.with_format(kind.format_type)
    known = before.format
    chosen = None if known["columns"] == before.column_names else [*known["columns"], *names.names]
    return made.with_format(
        known["type"],
        columns=chosen,
        output_all_columns=known["output_all_columns"],
        **known["format_kwargs"],
    )


def _input(row: int, value: Any) -> ImageInput | Refused:
    name = f"image {row}"
    if isinstance(value, Image.Image | bytes):
        return ImageInput(name, value)
    if isinstance(value, Mapping):
        path = value.get("path")
        name = str(path) if path else name
        if value.get("bytes") is not None:
            return ImageInput(name, value["bytes"])
        value = path
    if not isinstance(value, str | Path):
        message = f"{name} is {'missing' if value is None else type(value).__name__}, and no image"
        return Refused(name, "no-image", message)
    return _file(str(value))


def _file(path: str) -> ImageInput | Refused:
    if "://" not in path:
        return ImageInput(path, Path(path))
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return ImageInput(path, file.read())
    except Exception as error:  # whatever the store or its library raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return Refused(path, "unreadable", f"{path} cannot be read ({reason})")
