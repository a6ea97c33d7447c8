"""`vlv caption` and `vlv encode`."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlv.cli.failures import Failures, refuse_none, shown
from vlv.cli.opening import smallest, tell_differences
from vlv.cli.options import (
    DEFAULT_MODEL,
    BatchSizeOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxNewTokensOption,
    ModelOption,
    NumBeamsOption,
    NumReturnSequencesOption,
    OffloadOption,
    OverwriteOption,
    PathsArgument,
    PresetOption,
    QuantizationOption,
    RecursiveOption,
    RevisionOption,
    SeedOption,
)

if TYPE_CHECKING:
    from vlv.inference.caption_files import CaptionStore
    from vlv.inference.captioning import Captioned
    from vlv.inference.sources import Found


def caption(
    paths: PathsArgument,
    recursive: RecursiveOption = False,
    output_format: Annotated[
        Literal["txt", "jsonl"] | None,
        typer.Option(
            "--output-format",
            help="txt: a file beside each image; jsonl: metadata.jsonl in the folder. "
            "Standard output if not given.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file of jsonl; metadata.jsonl in the images' folder if not given.",
            show_default=False,
        ),
    ] = None,
    caption_extension: Annotated[
        str, typer.Option("--caption-extension", help="Extension of the files of txt.")
    ] = ".txt",
    overwrite: OverwriteOption = False,
    preset: PresetOption = None,
    num_beams: NumBeamsOption = None,
    num_return_sequences: NumReturnSequencesOption = 1,
    max_new_tokens: MaxNewTokensOption = None,
    min_new_tokens: Annotated[
        int, typer.Option("--min-new-tokens", min=0, help="Shortest caption, in tokens.")
    ] = 0,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="Above 0: sample instead of search.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Sample from the likeliest tokens of this mass.")
    ] = 1.0,
    seed: SeedOption = 0,
    drop_unfinished: Annotated[
        bool | None,
        typer.Option(
            "--drop-unfinished/--keep-unfinished",
            help="Drop a last sentence without an end; if not given, where the limit cut it off.",
            show_default=False,
        ),
    ] = None,
    drop_repeated: Annotated[
        bool | None,
        typer.Option(
            "--drop-repeated/--keep-repeated",
            help="Drop repeated sentences; if not given, where the limit cut a caption off.",
            show_default=False,
        ),
    ] = None,
    prepend: Annotated[str, typer.Option("--prepend", help="Text before every caption.")] = "",
    append: Annotated[str, typer.Option("--append", help="Text after every caption.")] = "",
    batch_size: BatchSizeOption = "8",
    as_json: JsonOption = False,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    offload: OffloadOption = False,
) -> None:
    """Write captions of images.

    Prints `path<TAB>caption` for each image, the bare caption for a single one, or a line of JSON
    with --json; with --num-return-sequences a line for each caption, the best one first. A file
    that cannot be read is named on standard error and stops no other; the exit code is then 1.
    Captions that exist already are left alone, and not made again, unless --overwrite is given.
    """
    # Names first: a wrong path or flag is told before torch and the model take their seconds.
    from vlv.inference.batching import batch_size as parsed_batch_size
    from vlv.inference.sources import find_images

    size = parsed_batch_size(batch_size)
    found = find_images(paths, recursive=recursive)
    refuse_none(found, paths, recursive)
    store = _store(output_format, output, caption_extension, paths)
    failures = Failures(as_json)
    failures.add(*found.refused)
    images, left = _still_to_do(found, store, overwrite, output_format)

    from vlv.cli.progress import progress
    from vlv.inference.captioning import caption_images
    from vlv.inference.encoding import Source
    from vlv.inference.loading import open_model
    from vlv.inference.postprocess import surround
    from vlv.inference.presets import caption_settings
    from vlv.inference.presets import preset as preset_of
    from vlv.inference.sources import Refused
    from vlv.models.memory import Work
    from vlv.models.sizes import CAPTIONING

    chosen = preset_of(preset)
    settings = caption_settings(
        chosen,
        {
            "num_beams": num_beams,
            "num_return_sequences": num_return_sequences,
            "max_new_tokens": max_new_tokens,
            "min_new_tokens": min_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "drop_unfinished": drop_unfinished,
            "drop_repeated": drop_repeated,
        },
    )
    opened = open_model(
        model,
        revision=revision,
        device=device,
        dtype=dtype or chosen.dtype,
        quantization=quantization,
        offload=offload,
        work=Work(CAPTIONING, smallest(size), settings.sequences, settings.max_new_tokens),
    )
    tell_differences(chosen, opened)
    results = caption_images(opened, map(Source.of_file, images), settings, batch_size=size)
    if store is not None or not sys.stdout.isatty():
        results = progress(results, total=len(images))
    bare = len(paths) == 1 and not os.path.isdir(paths[0])
    written = 0
    try:
        for image, result in zip(images, results, strict=True):
            if isinstance(result, Refused):
                failures.add(result)
                continue
            texts = [surround(one, prepend, append) for one in result.captions]
            if store is not None and not _put(store, image, texts, failures):
                continue
            written += 1
            if as_json:
                typer.echo(json.dumps(_as_json(result, texts)))
            elif store is None:
                for text in texts:
                    typer.echo(text if bare else f"{shown(result.name)}\t{text}")
    finally:
        if store is not None:
            store.close()
    if store is not None and not as_json:
        kept = f", {left} left as they are (--overwrite replaces captions)" if left else ""
        typer.echo(f"{written} captions written{kept}, {failures.count} failed")
    failures.exit()


def _store(
    output_format: str | None, output: Path | None, extension: str, paths: Iterable[Path]
) -> "CaptionStore | None":
    """Where captions are written; None is standard output."""
    from vlv.errors import ConfigError
    from vlv.inference.caption_files import MetadataFile, Sidecars, metadata_path

    if output is not None and output_format != "jsonl":
        raise ConfigError("--output names the file of --output-format jsonl; give both")
    if output_format == "txt":
        return Sidecars(extension)
    if output_format == "jsonl":
        return MetadataFile(metadata_path(paths) if output is None else output)
    return None


def _still_to_do(
    found: "Found", store: "CaptionStore | None", overwrite: bool, output_format: str | None
) -> tuple[list[Path], int]:
    """The images to caption, of several that share a file the first, and how many are done."""
    from vlv.inference.sources import shared_stems

    images = found.images
    if output_format == "txt":
        others: set[Path] = set()
        for stem, several in shared_stems(images).items():
            names = " and ".join(shown(image.name) for image in several)
            typer.echo(
                f"vlv: warning: {names} share the caption file of {shown(stem)}; "
                f"{shown(several[0].name)} is the one that is captioned",
                err=True,
            )
            others.update(several[1:])
        images = [image for image in images if image not in others]
    if store is None or overwrite:
        return images, 0
    to_do = [image for image in images if not store.has(image)]
    return to_do, len(images) - len(to_do)


def _put(store: "CaptionStore", image: Path, texts: list[str], failures: Failures) -> bool:
    """Write the captions; a place that cannot be written costs this image alone."""
    from vlv.inference.sources import Refused

    try:
        store.put(image, *texts)
    except OSError as error:
        message = f"the caption of {image} cannot be written ({error})"
        failures.add(Refused(str(image), "unwritable", message))
        return False
    return True


def _as_json(result: "Captioned", texts: list[str]) -> dict[str, object]:
    return {
        "file_name": result.name,
        "text": texts[0],
        **({"texts": texts} if len(texts) > 1 else {}),
        "ended": result.ended,
        "tokens": result.tokens,
    }


def encode(
    paths: PathsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    recursive: RecursiveOption = False,
    batch_size: BatchSizeOption = "8",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Save the caption embeddings of images, for `vlv reconstruct` and `vlv compose`.

    Writes the tensor z (images, queries, width) and, in the file's metadata, the file names. A
    file that cannot be read is named on standard error and left out; the exit code is then 1.
    """
    from vlv.errors import ConfigError
    from vlv.inference.batching import batch_size as parsed_batch_size
    from vlv.inference.sources import find_images

    size = parsed_batch_size(batch_size)
    if out.suffix != ".safetensors":
        raise ConfigError(f"embeddings are written as .safetensors, so {out} must end in that")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already; choose another name or give --overwrite")
    found = find_images(paths, recursive=recursive)
    refuse_none(found, paths, recursive)
    failures = Failures(as_json)
    failures.add(*found.refused)
    # Now rather than after all the work.
    out.parent.mkdir(parents=True, exist_ok=True)

    import torch

    from vlv.cli.progress import progress
    from vlv.inference.embeddings import save_embeddings
    from vlv.inference.encoding import Encoded, Source, encode_images
    from vlv.inference.loading import open_model
    from vlv.models.memory import Work

    work = Work(("encoder",), smallest(size))
    opened = open_model(model, revision=revision, device=device, dtype=dtype, work=work)
    sources = map(Source.of_file, found.images)
    encoded: list[Encoded] = []
    results = encode_images(opened, sources, batch_size=size)
    for result in progress(results, total=len(found.images)):
        if isinstance(result, Encoded):
            encoded.append(Encoded(result.name, result.z.float().cpu()))
        else:
            failures.add(result)
    if encoded:
        z = torch.stack([one.z for one in encoded])
        save_embeddings(out, z, [one.name for one in encoded], model)
        if as_json:
            typer.echo(json.dumps({"out": str(out), "shape": list(z.shape)}))
        else:
            sizes = " x ".join(str(size) for size in z.shape)
            typer.echo(f"{shown(out)}: z {sizes} (images, queries, width)")
    failures.exit()
