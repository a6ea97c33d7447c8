"""`vlv assemble`: an untrained model out of published ones."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.common import refuse_existing
from vlv.cli.options.files import JsonOption, OverwriteOption

_DEFAULT = "the paper's"


def assemble(
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Florence-2: a Hub id or a folder.", show_default=_DEFAULT),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            "--decoder",
            help="Text-to-image model in diffusers' layout: a Hub id or a folder.",
            show_default=_DEFAULT,
        ),
    ] = None,
    language_model: Annotated[
        str | None,
        typer.Option(
            "--language-model",
            help="Causal language model: a Hub id or a folder.",
            show_default=_DEFAULT,
        ),
    ] = None,
    decoder_image_size: Annotated[
        int, typer.Option(min=8, help="Side of the decoder's pictures in pixels.")
    ] = 384,
    num_queries: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Embeddings of a picture.",
            show_default="77, or as many as the text encoders take",
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option("--dtype", help="Data type of the written weights."),
    ] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fresh weights.")] = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write an untrained model folder: published parts, with fresh queries, phi and psi.

    Stage 1 trains it (`initial_model`). The text-to-image model may be of any supported family:
    Stable Diffusion 1 and 2, SDXL, Stable Diffusion 3, FLUX.1, Sana. What is downloaded is
    downloaded at its pinned commit.
    """
    refuse_existing(out, overwrite)
    import torch

    from vlv.pipeline import VLV

    torch.manual_seed(seed)
    model = VLV.from_components(
        encoder,
        decoder,
        language_model,
        num_queries=num_queries,
        decoder_image_size=decoder_image_size,
        dtype=getattr(torch, dtype),
    )
    model.save_pretrained(out)
    parts = model.provenance["parts"]
    if as_json:
        family = model.manifest.config.family
        typer.echo(json.dumps({"out": str(out), "family": family, "parts": parts}))
        return
    typer.echo(f"{out}: untrained, of the family {model.manifest.config.family}")
    for role, part in parts.items():
        typer.echo(f"  {role}: {part['id']} ({part['licence']})")
