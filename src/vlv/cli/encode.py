"""`vlv encode`: the caption embeddings of images, saved to a file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.common import Failures, progress, refuse_existing, smallest
from vlv.cli.option_groups import InputOptions, ModelOptions
from vlv.cli.options.files import JsonOption, OverwriteOption
from vlv.cli.options.headings import OUTPUT
from vlv.cli.options.limits import (
    DEFAULT_MAX_MEGAPIXELS,
    MaxMegapixelsOption,
    ModelBatchSizeOption,
    pixels,
)
from vlv.cli.options.model import NumQueriesOption
from vlv.text import printable


def encode(
    inputs: InputOptions,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The .safetensors file to write.", rich_help_panel=OUTPUT),
    ],
    model_options: ModelOptions,
    num_queries: NumQueriesOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    batch_size: ModelBatchSizeOption = None,
    max_megapixels: MaxMegapixelsOption = DEFAULT_MAX_MEGAPIXELS,
) -> None:
    """Save the caption embeddings of images, for `vlv reconstruct` and `vlv compose`.

    The file holds the tensor z (images, queries, width) and, in its metadata, the file names. An
    image that cannot be read is named on standard error and left out; the exit code is then 1.
    """
    from vlv.errors import ConfigError
    from vlv.inference.batching import batch_size as parsed_batch_size

    given = None if batch_size is None else parsed_batch_size(batch_size)
    if out.suffix != ".safetensors":
        raise ConfigError(f"embeddings are written as .safetensors, so {out} must end in that")
    refuse_existing(out, overwrite)
    found = inputs.find()
    failures = Failures(as_json)
    failures.add(*found.refused)
    # Fails before the work rather than after it.
    out.parent.mkdir(parents=True, exist_ok=True)

    import torch

    from vlv.checkpoints.memory import Work
    from vlv.inference.embeddings import save_embeddings
    from vlv.inference.encoding import default_batch_size, encode_images
    from vlv.inference.inputs import inputs_of
    from vlv.inference.records import Encoded

    opened = model_options.open(Work(("encoder",), smallest(given or 8)))
    size = given or default_batch_size(opened)
    sources = inputs_of(found.images, found.sets, max_pixels=pixels(max_megapixels))
    total = None if found.sets else len(found.images)
    names: list[str] = []
    embeddings: list[torch.Tensor] = []
    results = encode_images(opened, sources, batch_size=size, num_queries=num_queries)
    for result in progress(results, total=total):
        if isinstance(result, Encoded):
            names.append(result.name)
            embeddings.append(result.z.float().cpu())
        else:
            failures.add(result)
    if embeddings:
        z = torch.stack(embeddings)
        save_embeddings(out, z, names, model_options.model, opened.encoder.slots)
        if as_json:
            typer.echo(json.dumps({"out": str(out), "shape": list(z.shape)}))
        else:
            sizes = " x ".join(str(size) for size in z.shape)
            typer.echo(f"{printable(out)}: z {sizes} (images, queries, width)")
    failures.exit()
