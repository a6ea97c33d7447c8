"""Where the images of a job are: a folder, shards, tables or a saved dataset."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlv.data.remote.locations import SetFile, expanded, is_pattern, url_of
from vlv.data.sets import detect_format
from vlv.errors import ConfigError, DatasetError

Kind = Literal["folder", "webdataset", "parquet", "datasets"]
SUFFIXES: dict[Kind, str] = {"webdataset": ".tar", "parquet": ".parquet"}


@dataclass(frozen=True)
class Layout:
    """Where the images are, and which of them are captioned.

    Args:
        source: as for `kind_of`.
        kind: the layout of the source.
        shard_size: images in a shard; WebDataset's shards and parquet's row groups stay whole.
        leave_out: a folder inside the source that is skipped.
        caption_of: gives the caption file of an image's name, if the source is a folder and
            captions are files. Of images that share a file the first is captioned.
        is_kept: whether such a file exists and must not be replaced.
        outlives: whether such a file is a result that stays when its image is gone.
    """

    source: str
    kind: Kind
    shard_size: int
    leave_out: Path | None = None
    caption_of: Callable[[str], Path] | None = None
    is_kept: Callable[[Path], bool] = lambda path: False
    outlives: Callable[[Path], bool] = lambda path: False


def kind_of(source: str) -> Kind:
    """The layout of the images at a path, or in the files of a pattern.

    Raises:
        DatasetError: nothing is there, or nothing in a known layout.
    """
    path = Path(source)
    if (path / "dataset_dict.json").is_file():
        raise DatasetError(f"{path} holds several splits; name the folder of one of them")
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "datasets"
    if path.exists() or url_of(source) is not None or is_pattern(source):
        kind: Kind = detect_format(path)  # type: ignore[assignment]
        return kind
    raise DatasetError(
        f"there is nothing at {source}: name a folder, or .tar or .parquet files, of which several "
        "can be named by a quoted pattern such as 'shards/{00000..00009}.tar' or 'shards/*.tar'"
    )


def files_of(source: str, kind: Kind) -> list[SetFile]:
    """The files of a folder, a name or a pattern, in order."""
    files = expanded(source, (SUFFIXES[kind],))
    return [file.absolute() if isinstance(file, Path) else file for file in files]


def load_dataset(source: str):  # type: ignore[no-untyped-def]
    """A dataset that was saved to disk, as the library's `Dataset`; its images stay encoded.

    Raises:
        ConfigError: the library `datasets` is not installed.
        DatasetError: it cannot be read, or has no column `image` of images.
    """
    try:
        from datasets import Image, load_from_disk
    except ImportError as error:
        raise ConfigError(
            "a saved dataset needs the library datasets; install it with: pip install 'vlv[data]'"
        ) from error
    try:
        dataset = load_from_disk(source)
    except (OSError, ValueError) as error:
        raise DatasetError(f"the dataset {source} cannot be read ({error})") from error
    if not isinstance(dataset.features.get("image"), Image):
        raise DatasetError(
            f"the dataset {source} has no column 'image' of images; its columns are "
            f"{', '.join(dataset.column_names)}"
        )
    return dataset.cast_column("image", Image(decode=False))
