"""`vlv data latents`: what training computes of every picture again and again, computed once."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlv.cli.common import Failures, progress
from vlv.cli.options.files import JsonOption, OverwriteOption
from vlv.cli.options.headings import MODEL, OUTPUT, PERFORMANCE, WORKERS
from vlv.cli.options.limits import DataEngineOption, RayAddressOption
from vlv.cli.options.model import DEFAULT_MODEL, DeviceOption, ModelOption
from vlv.text import counted, printable

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from vlv.data.image_sets import ImageSet
    from vlv.models.vlv import VLVModel
    from vlv.training.latents_on_ray import LatentActors


def latents(
    data: Annotated[
        Path,
        typer.Argument(
            help="A dataset of images: a folder, .tar shards or parquet.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to write.", rich_help_panel=OUTPUT),
    ],
    model: ModelOption = DEFAULT_MODEL,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures",
            help="Keep the decoded, cropped pictures too, so that training decodes no image.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    precision: Annotated[
        Literal["no", "bf16", "auto"],
        typer.Option(
            "--precision", help="mixed_precision of the training run.", rich_help_panel=MODEL
        ),
    ] = "no",
    device: DeviceOption = None,
    format: Annotated[
        Literal["folder", "webdataset", "parquet"] | None,
        typer.Option("--format", help="Format of the dataset.", show_default="by its files"),
    ] = None,
    index_folder: Annotated[
        Path,
        typer.Option("--index-folder", help="Cache of the positions of samples in shards."),
    ] = Path("runs/indexes"),
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="Pictures per file.", rich_help_panel=OUTPUT)
    ] = 10_000,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", min=1, help="Images per batch.", rich_help_panel=PERFORMANCE),
    ] = 32,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=0,
            help="Processes that decode images; 0 is the command itself. On Ray, of each actor.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 0,
    engine: DataEngineOption = "processes",
    ray_address: RayAddressOption = None,
    actors: Annotated[
        int | None,
        typer.Option(
            "--actors",
            min=1,
            help="With --engine ray: processes that make shards, each with the VAE.",
            show_default="one per GPU of the cluster, else one per machine",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cache the VAE's latents of a dataset, for `data.latents` of stages 1 and 2.

    The disk space is shown first. A command that was stopped goes on with the shard that it was at.
    Images that cannot be read are named, and training replaces them as it does without a cache.
    """
    from vlv.cli.train import show_progress
    from vlv.models.precision import mixed_precision
    from vlv.training.latent_caching import fill_cache, gigabytes, plan_cache, refusals
    from vlv.training.latents_on_ray import LatentActors, fill_cache_on_ray
    from vlv.training.samples.set_latents import CacheContents, CacheKey

    own = LatentActors(actors, device, ray_address, batch_size, workers)
    _check_engine(engine, own)
    show_progress()
    inputs = Inputs(data, format, index_folder, model, device, batch_size)
    opened = inputs.model_with_vae()
    vae, images = _vae_of(opened), inputs.images()
    key = CacheKey.of(
        vae,
        images,
        opened.manifest.config.decoder_image_size,
        mixed_precision(precision, opened.device),
    )
    contents = CacheContents(**key.model_dump(), pictures=pictures, shard_size=shard_size)
    plan = plan_cache(out, contents, overwrite=overwrite)
    typer.echo(
        f"vlv: {plan.pictures_left:,} of {counted(contents.count, 'image')} to do, "
        f"{gigabytes(plan.bytes_left)} of disk space, {gigabytes(plan.bytes_free)} free",
        err=True,
    )
    plan.check_room()
    failures = Failures(as_json)
    failures.add(*refusals(plan))
    if engine == "ray":
        made = fill_cache_on_ray(plan, inputs.anywhere(), own)
    else:
        vae = vae.to(opened.device)
        made = fill_cache(plan, images, vae, batch_size=batch_size, workers=workers)
    done = progress(made, total=plan.pictures_left, description="latents")
    for one in chain.from_iterable(done):
        failures.add(one)
    size = contents.count * contents.bytes_each
    if as_json:
        found = {"images": contents.count, "refused": failures.count, "bytes": size}
        typer.echo(json.dumps({"out": str(out), **found}))
    else:
        typer.echo(
            f"{printable(out)}: latents of {contents.count - failures.count:,} of "
            f"{counted(contents.count, 'image')}, {gigabytes(size)}"
        )
    failures.exit()


@dataclass(frozen=True)
class Inputs:
    """What latents are made of: a set, and the VAE of a model. An actor on Ray opens them too."""

    data: Path
    format: str | None
    index_folder: Path
    model: str
    device: str | None
    batch_size: int

    def __call__(self) -> "tuple[ImageSet, AutoencoderKL]":
        """The set, and the VAE on its device."""
        opened = self.model_with_vae(lambda line: None)  # the command has said it
        return self.images(), _vae_of(opened).to(opened.device)

    def images(self) -> "ImageSet":
        """The set."""
        from vlv.data.image_sets import open_image_set

        return open_image_set(self.data, format=self.format, index_folder=self.index_folder)

    def model_with_vae(self, log: Callable[[str], None] | None = None) -> "VLVModel":
        """The model, of which no weights are read; `log` receives notes about memory."""
        from vlv.checkpoints.memory import Work
        from vlv.inference.loading import open_model

        work = Work(("decoder",), self.batch_size)
        opened = open_model(self.model, device=self.device, work=work, log=log)
        opened.require("vae")
        return opened

    def anywhere(self) -> "Inputs":
        """The same for a process that may start in any folder."""
        from vlv.data.remote.locations import anywhere

        return replace(
            self,
            data=Path(anywhere(self.data)),
            index_folder=self.index_folder.absolute(),
            model=os.path.abspath(self.model) if os.path.isdir(self.model) else self.model,
        )


def _vae_of(model: "VLVModel") -> "AutoencoderKL":
    """The VAE alone, frozen, with its stored weights."""
    from vlv.checkpoints.manifest import component_folder
    from vlv.training.latent_caching import open_vae

    assert model.folder is not None  # it was opened from one
    return open_vae(component_folder("vae", model.folder), model.manifest.config.family)


def _check_engine(engine: Literal["processes", "ray"], actors: "LatentActors") -> None:
    """Raises ConfigError where Ray is named and not installed, or only options of it are given."""
    from vlv.data.ray_cluster import check_no_number, cluster_address, import_ray
    from vlv.errors import ConfigError

    if engine == "ray":
        check_no_number(actors.device)
        import_ray(cluster_address(actors.address))
    elif actors.address is not None:
        raise ConfigError("--ray-address needs --engine ray")
    elif actors.count is not None:
        raise ConfigError("--actors needs --engine ray")
