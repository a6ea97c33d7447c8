"""Where `vlv caption` puts captions: standard output, files beside the images, or a new set."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from vlv.cli.common import Failures
from vlv.errors import DatasetError, ImageError
from vlv.text import printable

if TYPE_CHECKING:
    from vlv.inference.caption_files import CaptionStore
    from vlv.inference.inputs import Found
    from vlv.inference.records import Captioned, ImageInput
    from vlv.inference.written import Replace

OutputFormat = Literal["txt", "jsonl", "json", "parquet", "webdataset"]
_SETS = ("parquet", "webdataset")
_OVERWRITE_HINT = "--overwrite replaces those that vlv wrote"
# How many images that kept their captions are named.
_NAMED = 5


@dataclass(frozen=True)
class Made:
    """The captions of one image as they are written, the best one first."""

    result: "Captioned"
    texts: list[str]

    def as_json(self) -> str:
        """A line for machines."""
        record: dict[str, Any] = {
            "file_name": self.result.name,
            "text": self.texts[0],
            **({"texts": self.texts} if len(self.texts) > 1 else {}),
            "ended": self.result.ended,
            "tokens": self.result.tokens,
            "in_distribution": self.result.in_distribution,
        }
        if self.result.sentences is not None:
            # Places count from the start of the written text. The full stop of the caption is
            # missing there if --append begins with a comma.
            start = self.texts[0].index(self.result.caption.removesuffix("."))
            record["sentences"] = [one.moved(start).record() for one in self.result.sentences]
        return json.dumps(record)


class Output:
    """Writes captions to their place, and counts them.

    Raises:
        ConfigError: the place does not fit the format or the images, or holds something else.
        DatasetError: the file of captions that is there cannot be read.
    """

    def __init__(
        self,
        format: OutputFormat | None,
        place: Path | None,
        extension: str,
        found: "Found",
        folders: Sequence[Path],
        overwrite: bool,
        overwrite_edited: bool,
        command: typer.Context | None,
    ) -> None:
        """command: locks a dataset until it ends; None where nothing will be written."""
        from vlv.errors import ConfigError
        from vlv.inference.written import Replace

        self.format = format
        self.overwrite = overwrite or overwrite_edited
        self.written = 0
        self.place = place
        self.set_folder: Path | None = None
        self.store: CaptionStore | None = None
        # Images whose captions were edited by hand, which --overwrite keeps.
        self._edited: list[Path] = []
        self.kept_meanwhile = 0
        if extension != ".txt" and format != "txt":
            raise ConfigError("--caption-extension is of --output-format txt: give that too")
        _check(format, place, found)
        if format in _SETS:
            assert place is not None and format is not None  # checked above
            _reserve(place, format, self.overwrite, command)
            self.set_folder = place
        else:
            ours = Replace.OURS if overwrite else Replace.NONE
            replace = Replace.ALL if overwrite_edited else ours
            self.store = _store(format, place, extension, folders, replace, command is not None)

    @property
    def prints(self) -> bool:
        """Whether captions go to standard output."""
        return self.format is None

    @property
    def way_to_replace(self) -> str:
        """The flag that replaces captions which were left as they are."""
        return "--overwrite-edited replaces them" if self.overwrite else _OVERWRITE_HINT

    def has(self, image: Path) -> bool:
        """Whether the image has a caption that is kept."""
        if self.store is None or not self.store.keeps(image):
            return False
        if self.overwrite:
            self._edited.append(image)
        return True

    def write(self, made: Iterable[Made], failures: Failures, *, bare: bool, as_json: bool) -> None:
        """Write all captions; `bare` prints them without file names."""
        if self.set_folder is not None:
            self._write_set(made, self.set_folder, failures, as_json)
            return
        try:
            for one in made:
                if self.store is not None and not self._put(self.store, one, failures):
                    continue
                self.written += 1
                if as_json:
                    typer.echo(one.as_json())
                elif self.store is None:
                    for text in map(printable, one.texts):
                        typer.echo(text if bare else f"{printable(one.result.name)}\t{text}")
        finally:
            if self.store is not None:
                late = self.store.close()
                self.written -= len(late)
                self._keep(late)
            self._tell_edited()

    def _put(self, store: "CaptionStore", made: Made, failures: Failures) -> bool:
        """Write the captions; if that fails, only this image has failed."""
        from vlv.inference.records import Refused

        image = made.result.image.path
        try:
            written = store.put(image, *made.texts)
        except (OSError, DatasetError) as error:
            message = f"the caption of {image} cannot be written ({error})"
            failures.add(Refused(str(image), "unwritable", message))
            return False
        if not written:
            self._keep([image])
        return written

    def _keep(self, images: Sequence[Path]) -> None:
        """Count images that got a caption from elsewhere while this run captioned them."""
        self.kept_meanwhile += len(images)
        self._edited += images

    def _tell_edited(self) -> None:
        if not self._edited:
            return
        count = len(self._edited)
        names = ", ".join(printable(image) for image in self._edited[:_NAMED])
        more = f" and {count - _NAMED:,} more" if count > _NAMED else ""
        captions = f"{count:,} captions were" if count > 1 else "1 caption was"
        typer.echo(
            f"vlv: kept: {captions} written or edited by hand or by another program ({names}"
            f"{more}); --overwrite-edited replaces such captions too",
            err=True,
        )

    def _write_set(
        self, made: Iterable[Made], folder: Path, failures: Failures, as_json: bool
    ) -> None:
        from vlv.inference.caption_files import write_captions
        from vlv.inference.records import Refused

        def noted() -> Iterable[tuple["ImageInput", list[str]]]:
            for one in made:
                image = one.result.image
                try:
                    image = replace(image, image=image.data())
                except ImageError as error:  # the file is gone since it was captioned
                    failures.add(Refused(image.name, error.reason, str(error)))
                    continue
                if as_json:
                    typer.echo(one.as_json())
                yield image, one.texts

        self.written = write_captions(noted(), folder, str(self.format), overwrite=self.overwrite)


def _reserve(place: Path, format: str, overwrite: bool, command: typer.Context | None) -> None:
    """Lock the dataset for this run until `command` ends. Raises ConfigError."""
    from filelock import Timeout

    from vlv.errors import ConfigError
    from vlv.inference.caption_files import check_new_set
    from vlv.inference.written import one_at_a_time

    check_new_set(place, format, overwrite=overwrite)
    if command is None:
        return
    folder = Path(os.path.realpath(place))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        command.with_resource(one_at_a_time(folder, timeout=0))
    except Timeout as error:
        raise ConfigError(
            f"another run is writing {place}; wait until it ends, or name another folder"
        ) from error
    check_new_set(place, format, overwrite=overwrite)  # another run may just have written it


def _check(format: OutputFormat | None, place: Path | None, found: "Found") -> None:
    from vlv.errors import ConfigError
    from vlv.inference.inputs import STANDARD_INPUT

    if place is not None and format in (None, "txt"):
        raise ConfigError(
            "--output needs --output-format jsonl, json, parquet or webdataset; give both"
        )
    if place is None and format in ("json", *_SETS):
        what = "folder" if format in _SETS else "file"
        raise ConfigError(f"--output-format {format} needs the {what} to write: give --output")
    if format not in (None, *_SETS) and STANDARD_INPUT in found.images:
        raise ConfigError(
            f"an image on standard input has no name for --output-format {format}; leave the "
            "format out, and its caption is printed"
        )
    if format == "txt" and found.sets:
        raise ConfigError(
            f"--output-format txt needs image files, and {found.sets[0]} is a dataset; use another "
            "format"
        )


def _store(
    format: OutputFormat | None,
    place: Path | None,
    extension: str,
    inputs: Sequence[Path],
    replace: "Replace",
    writes: bool,
) -> "CaptionStore | None":
    from vlv.inference.caption_files import Sidecars, metadata_path
    from vlv.inference.caption_lists.common import CaptionList
    from vlv.inference.caption_lists.kohya import CaptionsJson
    from vlv.inference.caption_lists.metadata import MetadataFile

    if format == "txt":
        return Sidecars(extension, replace)
    listed: CaptionList
    if format == "jsonl":
        listed = store = MetadataFile(metadata_path(inputs) if place is None else place, replace)
        if store.unread:
            typer.echo(
                f"vlv: warning: {store.unread:,} lines of {printable(store.path)} cannot be read; "
                "they stay as they are",
                err=True,
            )
    elif format == "json":
        assert place is not None  # checked before
        listed = CaptionsJson(place, replace)
    else:
        return None
    if writes:
        listed.check_place()
    return listed


def first_of_shared(images: list[Path], store: "CaptionStore") -> list[Path]:
    """The images without those that would share the caption file of another, with a warning."""
    from vlv.data.folder import shared_stems

    others: set[Path] = set()
    for stem, several in shared_stems(images).items():
        names = " and ".join(printable(image.name) for image in several)
        # Which of them a file that is there was written for is not known.
        outcome = (
            "it exists already and stays, and may belong to any of them"
            if store.keeps(several[0])
            else f"{printable(several[0].name)} is the one that is captioned"
        )
        typer.echo(
            f"vlv: warning: {names} share the caption file of {printable(stem)}; {outcome}",
            err=True,
        )
        others.update(several[1:])
    return [image for image in images if image not in others]


def report_unsupported(result: "Captioned") -> None:
    """Print a line on standard error for each sentence that is unsupported or cannot be judged."""
    from vlv.verification.verdicts import why

    for one in result.sentences or ():
        if one.supported is not True:
            verdict = "cannot judge" if one.supported is None else "unsupported"
            reason = why(result.caption, one)
            better = "because" if one.supported is None else "better"
            more = f"; {better}: {reason}" if reason else ""
            typer.echo(
                f"vlv: {verdict}: {printable(result.name)}: {printable(one.text)}{more}", err=True
            )
