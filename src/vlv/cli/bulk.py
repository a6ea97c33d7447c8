"""`vlv bulk`: captions of very many images."""

import json
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlv.cli.caption_output import warn_of_ood
from vlv.cli.opening import smallest, tell_differences
from vlv.cli.options import (
    DEFAULT_MAX_MEGAPIXELS,
    DEFAULT_MODEL,
    AppendOption,
    BannedWordsOption,
    BatchSizeOption,
    CaptionExtensionOption,
    DeviceOption,
    DropRepeatedOption,
    DropUnfinishedOption,
    DtypeOption,
    ForcedStartOption,
    JsonOption,
    MaxMegapixelsOption,
    MaxNewTokensOption,
    MinNewTokensOption,
    ModelOption,
    NumBeamsOption,
    NumReturnSequencesOption,
    OffloadOption,
    OverwriteEditedOption,
    OverwriteOption,
    PrependOption,
    PresetOption,
    QuantizationOption,
    RevisionOption,
    SeedOption,
    TemperatureOption,
    TopPOption,
    pixels,
    words,
)
from vlv.text import printable

if TYPE_CHECKING:
    from vlv.inference.bulk.report import Report


def bulk(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder of images, with its subfolders; .tar shards or .parquet files, or a "
            "folder or quoted pattern of them; a dataset of the library datasets on disk.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="The folder for the results.", show_default=False)
    ],
    output_format: Annotated[
        Literal["jsonl", "txt", "folder", "parquet", "webdataset"],
        typer.Option(
            "--output-format",
            help="jsonl: metadata.jsonl; txt: a caption file for each image; folder: images with "
            "both; parquet and webdataset: images with captions.",
        ),
    ] = "jsonl",
    caption_extension: CaptionExtensionOption = ".txt",
    count: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Processes with a model each.",
            show_default="one for each GPU, or one (on Ray, one for each machine)",
        ),
    ] = None,
    decoders: Annotated[
        int, typer.Option("--decoders", min=1, help="Processes of each worker that decode images.")
    ] = 2,
    engine: Annotated[
        Literal["processes", "ray"],
        typer.Option(
            "--engine",
            help="Who works: processes of this machine, or the actors of a Ray cluster, which "
            "needs the extra `ray`.",
        ),
    ] = "processes",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            help="With --engine ray: a cluster that runs, whose machines share the files.",
            show_default="RAY_ADDRESS, or a new one on this machine",
        ),
    ] = None,
    silence: Annotated[
        float,
        typer.Option(
            "--worker-timeout",
            min=5,
            help="Seconds after which a worker is replaced that gives no sign of life, as one that "
            "was stopped.",
        ),
    ] = 60,
    stall: Annotated[
        float,
        typer.Option(
            "--batch-timeout",
            min=5,
            help="Seconds that a worker may take to load the model, or for one batch.",
        ),
    ] = 3600,
    shard_size: Annotated[
        int,
        typer.Option(
            "--shard-size", min=1, help="Images that are done as a whole; .tar files stay whole."
        ),
    ] = 1000,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try images again that failed before.")
    ] = False,
    overwrite: OverwriteOption = False,
    overwrite_edited: OverwriteEditedOption = False,
    preset: PresetOption = None,
    num_beams: NumBeamsOption = None,
    num_return_sequences: NumReturnSequencesOption = 1,
    max_new_tokens: MaxNewTokensOption = None,
    min_new_tokens: MinNewTokensOption = 0,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = 0,
    forced_start: ForcedStartOption = "",
    banned_words: BannedWordsOption = "",
    drop_unfinished: DropUnfinishedOption = None,
    drop_repeated: DropRepeatedOption = None,
    prepend: PrependOption = "",
    append: AppendOption = "",
    batch_size: BatchSizeOption = "auto",
    max_megapixels: MaxMegapixelsOption = DEFAULT_MAX_MEGAPIXELS,
    as_json: JsonOption = False,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    offload: OffloadOption = False,
) -> None:
    """Write captions of very many images, shard by shard.

    A run that was cut off, by whatever, goes on where it stopped when it is started again: a shard
    is done as a whole or not at all. Images that cannot be read are counted by reason and named
    with it in DST/.vlv-bulk/failed.jsonl; the exit code is then 1. Images that are new since, and
    failed ones that were mended, are done by the same command.
    """
    from vlv.inference.batching import batch_size as parsed_batch_size
    from vlv.inference.bulk.plan import kind_of
    from vlv.inference.caption_files import Sidecars

    size = parsed_batch_size(batch_size)
    kind_of(source)
    Sidecars(caption_extension)

    from vlv.checkpoints.memory import Work
    from vlv.checkpoints.parts import CAPTIONING
    from vlv.inference.bulk.job import Job, Workers
    from vlv.inference.bulk.ray_engine import import_ray
    from vlv.inference.bulk.running import run
    from vlv.inference.loading import open_model
    from vlv.inference.presets import caption_settings
    from vlv.inference.presets import preset as preset_of

    workers = Workers(count, device, decoders, engine, ray_address, silence, stall)
    if engine == "ray":
        import_ray(workers)
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
            "forced_start": forced_start,
            "banned_words": words(banned_words),
            "drop_unfinished": drop_unfinished,
            "drop_repeated": drop_repeated,
        },
    )
    job = Job(
        source=source,
        target=target,
        output_format=output_format,
        model=model,
        revision=revision,
        dtype=dtype or chosen.dtype,
        quantization=quantization,
        offload=offload,
        captions=settings,
        batch_size=size,
        prepend=prepend,
        append=append,
        caption_extension=caption_extension,
        shard_size=shard_size,
        max_pixels=pixels(max_megapixels),
    )
    # Here only to say, once, what would go wrong or is worth knowing; each worker has its own.
    opened = open_model(
        model,
        revision=revision,
        device=device,
        dtype=job.dtype,
        quantization=quantization,
        offload=offload,
        work=Work(CAPTIONING, smallest(size), settings.sequences, settings.max_new_tokens),
    )
    if preset is not None:
        tell_differences(chosen, opened)
    del opened
    watch = _Watch()
    try:
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
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        typer.echo(
            f"vlv: {where}{error.strerror or error}; make room there, or mend what the system "
            "refuses: the same command goes on with what is left",
            err=True,
        )
        raise typer.Exit(1) from error
    except SystemExit:
        typer.echo("vlv: stopped; the same command goes on with what is left", err=True)
        raise
    _print(report, watch, job.folder, as_json)
    if report.failed:
        raise typer.Exit(1)


class _Watch:
    """The progress bar, and how long this run takes for how many images."""

    def __init__(self) -> None:
        self.images = 0
        self._start = time.perf_counter()
        self._bar: Iterator[None] = repeat(None)

    def begin(self, images: int | None, done: int) -> None:
        """What is there to do, and how much of it is done."""
        from vlv.cli.progress import progress

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


def _print(report: "Report", watch: _Watch, folder: Path, as_json: bool) -> None:
    seconds, failed = watch.seconds, report.failed
    warn_of_ood(report.out_of_distribution.count, report.out_of_distribution.names)
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
        f"{report.images:,} images: {report.counts['ok']:,} ok, {kept}{failed.total():,} failed"
        + (f" ({reasons})" if reasons else "")
        + (f"; {report.counts['gone']:,} gone from the source" if report.counts["gone"] else "")
    )
    if watch.images:
        rate = watch.images / seconds
        typer.echo(f"{watch.images:,} in this run, {rate:,.1f} images/s, {seconds:,.0f} s")
    if failed:
        typer.echo(f"the failed images, with reasons: {printable(folder / 'failed.jsonl')}")
