"""`vlv encode`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.failures import Failures
from vlv.cli.inputs import find
from vlv.cli.opening import smallest
from vlv.cli.options import (
    DEFAULT_MAX_MEGAPIXELS,
    DEFAULT_MODEL,
    DeviceOption,
    DtypeOption,
    FilelistOption,
    GlobOption,
    InputsArgument,
    JsonOption,
    MaxMegapixelsOption,
    ModelBatchSizeOption,
    ModelOption,
    OverwriteOption,
    RecursiveOption,
    RevisionOption,
    pixels,
)
from vlv.text import printable


def encode(
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    paths: InputsArgument = None,
    patterns: GlobOption = None,
    filelist: FilelistOption = None,
    recursive: RecursiveOption = False,
    batch_size: ModelBatchSizeOption = None,
    max_megapixels: MaxMegapixelsOption = DEFAULT_MAX_MEGAPIXELS,
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

    given = None if batch_size is None else parsed_batch_size(batch_size)
    if out.suffix != ".safetensors":
        raise ConfigError(f"embeddings are written as .safetensors, so {out} must end in that")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already; choose another name or give --overwrite")
    found = find(paths, patterns, filelist, recursive)
    failures = Failures(as_json)
    failures.add(*found.refused)
    # Now rather than after all the work.
    out.parent.mkdir(parents=True, exist_ok=True)

    import torch

    from vlv.checkpoints.memory import Work
    from vlv.cli.progress import progress
    from vlv.inference.embeddings import save_embeddings
    from vlv.inference.encoding import default_batch_size, encode_images
    from vlv.inference.inputs import inputs_of
    from vlv.inference.loading import open_model
    from vlv.inference.records import Encoded

    work = Work(("encoder",), smallest(given or 8))
    opened = open_model(model, revision=revision, device=device, dtype=dtype, work=work)
    size = given or default_batch_size(opened)
    sources = inputs_of(found.images, found.sets, max_pixels=pixels(max_megapixels))
    total = None if found.sets else len(found.images)
    names: list[str] = []
    embeddings: list[torch.Tensor] = []
    results = encode_images(opened, sources, batch_size=size)
    for result in progress(results, total=total):
        if isinstance(result, Encoded):
            names.append(result.name)
            embeddings.append(result.z.float().cpu())
        else:
            failures.add(result)
    if embeddings:
        z = torch.stack(embeddings)
        save_embeddings(out, z, names, model)
        if as_json:
            typer.echo(json.dumps({"out": str(out), "shape": list(z.shape)}))
        else:
            sizes = " x ".join(str(size) for size in z.shape)
            typer.echo(f"{printable(out)}: z {sizes} (images, queries, width)")
    failures.exit()
