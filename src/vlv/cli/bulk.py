"""`vlv bulk`: captions of very many images."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlv.cli.common import is_fine_tune, note_differences, progress, smallest, warn_of_ood
from vlv.cli.option_groups import GenerationOptions, PresetModelOptions
from vlv.cli.options.captions import TriggerOption
from vlv.cli.options.files import (
    CaptionExtensionOption,
    JsonOption,
    OverwriteCaptionsOption,
    OverwriteEditedOption,
    TargetArgument,
)
from vlv.cli.options.headings import OUTPUT, PERFORMANCE, WORKERS
from vlv.cli.options.limits import (
    DEFAULT_MAX_MEGAPIXELS,
    BatchSizeOption,
    MaxMegapixelsOption,
    pixels,
)
from vlv.cli.options.model import EngineUrlOption
from vlv.errors import ConfigError
from vlv.text import counted, printable

if TYPE_CHECKING:
    from vlv.inference.bulk.job import Job
    from vlv.inference.bulk.report import Report


def bulk(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder of images with its subfolders; .tar shards or .parquet files, or a "
            "folder or quoted pattern of them; a dataset on disk of the library `datasets`.",
            show_default=False,
        ),
    ],
    target: TargetArgument,
    generation: GenerationOptions,
    model_options: PresetModelOptions,
    output_format: Annotated[
        Literal["jsonl", "txt", "folder", "parquet", "webdataset"],
        typer.Option(
            "--output-format",
            help="jsonl: metadata.jsonl; txt: a caption file for each image; folder: images with "
            "both; parquet or webdataset: images with captions.",
            rich_help_panel=OUTPUT,
        ),
    ] = "jsonl",
    caption_extension: CaptionExtensionOption = ".txt",
    overwrite: OverwriteCaptionsOption = False,
    overwrite_edited: OverwriteEditedOption = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Try again the images that failed before.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: JsonOption = False,
    batch_size: BatchSizeOption = "auto",
    max_megapixels: MaxMegapixelsOption = DEFAULT_MAX_MEGAPIXELS,
    shard_size: Annotated[
        int,
        typer.Option(
            "--shard-size",
            min=1,
            help="Images per shard. A shard is done as a whole or not at all; a .tar file is one "
            "shard.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 1000,
    count: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Processes, each with its own model.",
            show_default="one per GPU, else one; on Ray one per machine",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    decoders: Annotated[
        int,
        typer.Option(
            "--decoders",
            min=1,
            help="Processes of each worker that decode images.",
            rich_help_panel=WORKERS,
        ),
    ] = 2,
    engine: Annotated[
        Literal["processes", "ray", "vllm", "llama.cpp"],
        typer.Option(
            "--engine",
            help="Where workers run: as processes of this machine, or as actors of a Ray cluster, "
            "which needs the extra `ray`. vllm, llama.cpp: processes, where that engine runs the "
            "language model, as for `vlv caption`.",
            rich_help_panel=WORKERS,
        ),
    ] = "processes",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            help="With --engine ray: the address of a running cluster whose machines share the "
            "files.",
            show_default="RAY_ADDRESS, else a new cluster on this machine",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    engine_url: EngineUrlOption = None,
    trigger: TriggerOption = "",
    silence: Annotated[
        float,
        typer.Option(
            "--worker-timeout",
            min=5,
            help="Seconds without a sign of life after which a worker is replaced.",
            rich_help_panel=WORKERS,
        ),
    ] = 60,
    stall: Annotated[
        float,
        typer.Option(
            "--batch-timeout",
            min=5,
            help="Seconds that a worker may take to load the model, or for one batch.",
            rich_help_panel=WORKERS,
        ),
    ] = 3600,
) -> None:
    """Caption large datasets, shard by shard.

    A run that was interrupted continues where it stopped when the same command is given again. The
    same command also captions images that are new, and failed ones that were repaired.

    Images that cannot be read are counted by reason and listed in DST/.vlv-bulk/failed.jsonl; the
    exit code is then 1.
    """
    from vlv.inference.batching import batch_size as parsed_batch_size
    from vlv.inference.bulk.layout import kind_of
    from vlv.inference.caption_files import Sidecars

    size = parsed_batch_size(batch_size)
    if caption_extension != ".txt" and output_format not in ("txt", "folder"):
        raise ConfigError(
            f"--caption-extension is of --output-format txt or folder, not {output_format}; leave "
            "it out, or give one of those"
        )
    kind_of(source)
    Sidecars(caption_extension)

    from vlv.data.ray_cluster import cluster_address, import_ray
    from vlv.inference.bulk.job import Job, Workers
    from vlv.inference.bulk.running import run
    from vlv.inference.engine_choice import EngineChoice

    place: Literal["processes", "ray"] = "ray" if engine == "ray" else "processes"
    choice = EngineChoice(engine if engine in ("vllm", "llama.cpp") else "transformers", engine_url)
    workers = Workers(count, model_options.device, decoders, place, ray_address, silence, stall)
    if engine == "ray":
        import_ray(cluster_address(ray_address))
    job = Job(
        source=source,
        target=target,
        output_format=output_format,
        model=model_options.model,
        revision=model_options.revision,
        dtype=model_options.chosen_dtype,
        quantization=model_options.quantization,
        offload=model_options.offload,
        engine=choice,
        captions=choice.settings(generation.settings(model_options.chosen_preset)),
        batch_size=size,
        prepend=generation.prepend,
        append=generation.append,
        trigger=trigger.strip(),
        caption_extension=caption_extension,
        shard_size=shard_size,
        max_pixels=pixels(max_megapixels),
    )
    fine_tuned = _try_model(model_options, job)
    watch = _Watch()
    with _saying_how_to_go_on():
        report = run(
            job,
            workers,
            retry_failed=retry_failed,
            overwrite=overwrite,
            overwrite_edited=overwrite_edited,
            begin=watch.begin,
            report=watch.tell,
            warn=lambda line: typer.echo(f"vlv: warning: {printable(line)}", err=True),
        )
    _print(report, watch, job.folder, as_json, fine_tuned)
    if report.failed:
        raise typer.Exit(1)


def _try_model(options: PresetModelOptions, job: "Job") -> bool:
    """Report once what is wrong with the model or worth knowing, as each worker opens it for
    itself. Returns whether it is a fine-tune.
    """
    opened = options.open(job.engine.work(job.captions, smallest(job.batch_size)))
    if options.preset is not None:
        note_differences(options.chosen_preset, opened)
    return is_fine_tune(opened)


@contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    """Inside, errors of the system and signals end with a line on what the same command does."""
    try:
        yield
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        # An error without a number is no refusal by the system: workers died.
        refused = "make room there, or mend what the system refuses: " if error.errno else ""
        typer.echo(
            f"vlv: {where}{error.strerror or error}; {refused}the same command goes on with what "
            "is left",
            err=True,
        )
        raise typer.Exit(1) from error
    except SystemExit:
        typer.echo("vlv: stopped; the same command goes on with what is left", err=True)
        raise


class _Watch:
    """The progress bar, and how long this run takes for how many images."""

    def __init__(self) -> None:
        self.images = 0
        self._start = time.perf_counter()
        self._bar: Iterator[None] = repeat(None)

    def begin(self, images: int | None, done: int) -> None:
        """What is there to do, and how much of it is done."""
        self._start = time.perf_counter()
        self._bar = progress(repeat(None), total=None if images is None else images - done)

    def tell(self, images: int) -> None:
        """So many more are done."""
        self.images += images
        for _ in range(images):
            next(self._bar)

    @property
    def seconds(self) -> float:
        """Since the work began, the loading of models included."""
        return time.perf_counter() - self._start


def _print(report: "Report", watch: _Watch, folder: Path, as_json: bool, fine_tuned: bool) -> None:
    seconds, failed = watch.seconds, report.failed
    warn_of_ood(
        report.out_of_distribution.count,
        report.out_of_distribution.names,
        fine_tuned=fine_tuned,
    )
    if as_json:
        numbers = {
            "images": report.images,
            "ok": report.counts["ok"],
            "kept": report.counts["kept"],
            "failed": dict(failed),
            "gone": report.counts["gone"],
            "out_of_distribution": report.out_of_distribution.count,
            "images_in_this_run": watch.images,
            "seconds": round(seconds, 3),
        }
        typer.echo(json.dumps(numbers))
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in failed.most_common())
    kept = f"{report.counts['kept']:,} with a caption already, " if report.counts["kept"] else ""
    typer.echo(
        f"{counted(report.images, 'image')}: {report.counts['ok']:,} ok, {kept}"
        f"{failed.total():,} failed"
        + (f" ({reasons})" if reasons else "")
        + (f"; {report.counts['gone']:,} gone from the source" if report.counts["gone"] else "")
    )
    if watch.images:
        rate = watch.images / seconds
        typer.echo(f"{watch.images:,} in this run, {rate:,.1f} images/s, {seconds:,.0f} s")
    if failed:
        typer.echo(f"the failed images, with reasons: {printable(folder / 'failed.jsonl')}")
