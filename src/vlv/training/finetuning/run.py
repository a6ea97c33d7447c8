"""A fine-tune from a model and a folder of captioned pictures to a small folder that is opened like
any model: look at the pictures, count the memory, read the pictures, train, write.
"""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import default_collate
from transformers import AutoTokenizer

from vlv.checkpoints.adapters import adapter_record, base_hash
from vlv.checkpoints.boxes import load_caption_decoder
from vlv.checkpoints.components import load_tokenizer, read_settings
from vlv.checkpoints.hub import EMBEDDED, resolve, snapshot_commit
from vlv.checkpoints.manifest import read_manifest
from vlv.checkpoints.memory import free_memory
from vlv.checkpoints.opening import load_model, model_folder
from vlv.checkpoints.parts import (
    CAPTION_DECODER_SETTINGS_FILE,
    ENCODER_SETTINGS_FILE,
    MANIFEST_FILE,
    PARTS,
)
from vlv.errors import CheckpointError, ConfigError, TrainingError
from vlv.files import atomic_file
from vlv.models.config import (
    AdapterRecord,
    CaptionDecoderDescription,
    Component,
    EncoderDescription,
    Manifest,
)
from vlv.models.precision import computes_bfloat16
from vlv.models.tokenizers import caption_ids
from vlv.models.vlv import VLVModel
from vlv.text import printable, read_object
from vlv.training.accelerator import computing_device
from vlv.training.checkpoint import list_checkpoints
from vlv.training.config import check_config
from vlv.training.finetuning.card import write_card
from vlv.training.finetuning.conditionings import KeptConditionings, Reader, pixels_of
from vlv.training.finetuning.config import FinetuneConfig, FinetuneSettings, Shape, run_config
from vlv.training.finetuning.memory import empty_model, finetune_memory, fitting
from vlv.training.finetuning.objective import FinetuneObjective
from vlv.training.finetuning.pictures import Captioned, Pictures, all_captions, digest, look_over
from vlv.training.finetuning.samples import FinetuneSamples, Views
from vlv.training.loop import train
from vlv.training.memory import GIB
from vlv.training.provenance import RECORD, inherited, read_record
from vlv.training.run_folder import writing
from vlv.training.samples.source import to_device
from vlv.training.samples.tokens import CaptionTokens
from vlv.training.stage import Stage

logger = logging.getLogger(__name__)
NAME = "finetune"
_NEEDED: tuple[Component, ...] = ("encoder", "text_tower", "caption_decoder")
# What a run was begun with, in its folder.
_SETTINGS = "settings.json"
# A caption of more tokens is cut.
_MOST_TOKENS = 300

T = TypeVar("T")
# Shows how far some work is: items, their number, and what is done with them.
Watch = Callable[[Iterable[T], int, str], Iterable[T]]


@dataclass(frozen=True)
class Base:
    """The model that is fine-tuned."""

    name: str
    folder: Path
    manifest: Manifest
    record: AdapterRecord
    image_size: int
    """Side in pixels of what the encoder sees."""
    queries: int


@dataclass(frozen=True)
class Finetuned:
    """The folder of a fine-tune, and why pictures of its set were refused."""

    folder: Path
    refused: list[str]


def finetune(
    settings: FinetuneSettings, say: Callable[[str], None], watch: Watch[Any]
) -> Finetuned:
    """Fine-tune, or go on with a run of the same settings that was cut off; see `vlv finetune`.

    say: receives a line on what will be done and is done. watch: as `Watch`.

    Raises:
        ConfigError: `out` holds something else, or a library is missing.
        CheckpointError: the model cannot be opened, or writes no captions.
        DatasetError: no picture is usable.
        TrainingError: too little memory, a run that gets worse, or what the loop raises.
        SystemExit(143): SIGTERM or Ctrl-C; a checkpoint was written.
    """
    base = _open_base(settings)
    _check_out(settings, base)
    pictures = look_over(
        settings.images,
        settings.run_folder / "index",
        first_line=settings.first_line,
        trigger=settings.trigger,
        watch=watch,
    )
    config, kept_folder = _plan(settings, base, pictures, say)
    if (settings.out / MANIFEST_FILE).is_file():
        _clear(config)
        say(f"{printable(settings.out)} is finished already")
        return Finetuned(settings.out, pictures.refused)
    device = computing_device()
    views, reader = _views(settings, base, config, pictures, kept_folder, say, watch)
    stage = _stage(base, config, pictures, views, reader, settings, say)
    objective = stage.objective
    assert isinstance(objective, FinetuneObjective)
    objective.to(device)
    objective.before = objective.held_out_loss() if objective.held_out else None
    _say_how_long(stage, say)
    with _interrupt_as_sigterm():
        final = train(stage)
    _finish(settings, config, base, pictures, final, objective, say)
    return Finetuned(settings.out, pictures.refused)


def _open_base(settings: FinetuneSettings) -> Base:
    folder = model_folder(settings.model, settings.revision, settings.base_models)
    if adapter_record(folder) is not None:
        raise CheckpointError(
            f"{printable(settings.model)} is a fine-tune itself; merge it first with `vlv finetune "
            "--merge`, and fine-tune the result"
        )
    manifest = read_manifest(folder)
    model = VLVModel(manifest, folder)
    for name in _NEEDED:
        model.require(name)
    seen = read_settings(EncoderDescription, folder / "encoder" / ENCODER_SETTINGS_FILE)
    crop = None
    if settings.view == "crop":
        crop = seen.crop_size or manifest.config.decoder_image_size
    local = Path(settings.model).expanduser()
    is_folder = settings.model not in EMBEDDED and local.exists()
    record = AdapterRecord(
        base=str(local.resolve()) if is_folder else settings.model,
        revision=snapshot_commit(resolve(settings.model, settings.revision)),
        base_sha256=base_hash(folder),
        base_models=settings.base_models,
        method=settings.method,
        crop_size=crop,
    )
    return Base(settings.model, folder, manifest, record, seen.image_size, seen.num_queries)


def _check_out(settings: FinetuneSettings, base: Base) -> None:
    """Raise ConfigError where the folder holds something else than this fine-tune."""
    out = settings.out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{printable(out)} is a file; name a folder as --out")
    if (out / MANIFEST_FILE).is_file():
        record = adapter_record(out)
        if record is None:
            raise ConfigError(
                f"{printable(out)} holds a model that is no fine-tune; name another --out"
            )
        if record.base_sha256 != base.record.base_sha256:
            raise ConfigError(
                f"{printable(out)} is a fine-tune of {printable(record.base)}, not of "
                f"{printable(base.name)}; name another --out"
            )
    elif out.is_dir() and any(out.iterdir()) and not settings.run_folder.is_dir():
        raise ConfigError(
            f"{printable(out)} holds files that are no fine-tune; name an empty or new folder as "
            "--out"
        )


def _plan(
    settings: FinetuneSettings, base: Base, pictures: Pictures, say: Callable[[str], None]
) -> tuple[FinetuneConfig, Path]:
    """The config of the run, that of an earlier one if it is the same run; and the folder for
    conditionings. What is going to be done is said.
    """
    learned, held = pictures.split(settings.validation, settings.seed)
    _say_pictures(pictures, len(learned), len(held), say)
    device = computing_device()
    half = device.type == "cuda" and computes_bfloat16(device)
    if settings.cache:
        _check_room(settings, base, len(pictures.good))
    shape = Shape(
        lora_rank=None if settings.full else settings.lora_rank,
        quantization=settings.quantization,
        half=half,
        kept=settings.cache,
        max_tokens=_most_tokens(base, pictures),
        micro_batch=min(settings.batch_size, len(learned)),
    )
    saved = _saved(settings.run_folder)
    if saved is not None:
        shape = replace(
            shape,
            micro_batch=saved.train_batch_size,
            gradient_checkpointing=saved.gradient_checkpointing,
        )
    free = free_memory(device)
    if saved is None:
        shape, need = fitting(base.folder, shape, free)
    else:
        need = finetune_memory(empty_model(base.folder), shape)
    config = run_config(
        settings,
        base_sha256=base.record.base_sha256,
        crop_size=base.record.crop_size,
        learned=len(learned),
        held_out=len(held),
        shape=shape,
    )
    if saved is not None:
        _check_same(settings, saved, config)
    what = (
        "all of the caption decoder"
        if settings.full
        else f"a LoRA of rank {settings.lora_rank} and psi"
    )
    say(
        f"{printable(base.name)}, {what}: {_short(need.trainable)} trainable parameters; about "
        f"{need.total / GIB:.1f} GiB of memory ({free / GIB:.1f} GiB free on {device})"
        + (", with gradient checkpointing" if shape.gradient_checkpointing else "")
    )
    path = settings.run_folder / _SETTINGS
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as unfinished:
            unfinished.write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    key = digest(
        f"{base.record.base_sha256} {base.record.crop_size} {half} {pictures.fingerprint}".encode()
    )
    return config, settings.run_folder / f"conditionings-{key[:12]}"


def _say_pictures(pictures: Pictures, learned: int, held: int, say: Callable[[str], None]) -> None:
    several = sum(len(one.captions) > 1 for one in pictures.good)
    say(
        f"{_count(len(pictures.good), 'picture')} with captions: {learned} to train on, {held} "
        "held out"
        + (f"; {several} have several captions, of which one is drawn each time" if several else "")
    )
    if pictures.without:
        first = printable(pictures.without[0])
        say(
            f"{_count(len(pictures.without), 'picture')} without a caption left out ({first} first)"
        )
    for reason in pictures.refused:
        say(f"left out: {printable(reason)}")


def _most_tokens(base: Base, pictures: Pictures) -> int:
    """The length of the longest caption, its end among them."""
    tokenizer = load_tokenizer(AutoTokenizer, base.folder / PARTS["language_model"].folder)
    _, lengths = caption_ids(tokenizer, all_captions(pictures.good), None)
    return min(int(lengths.max()), _MOST_TOKENS)


def _check_room(settings: FinetuneSettings, base: Base, count: int) -> None:
    """Raise TrainingError where the disk has no room for the conditionings."""
    size = count * _conditioning_bytes(base)
    above = next(
        one for one in (settings.out.absolute(), *settings.out.absolute().parents) if one.exists()
    )
    free = shutil.disk_usage(above).free
    if size > free:
        raise TrainingError(
            f"what the pictures give takes {size / GIB:.1f} GiB in {printable(settings.out)}, and "
            f"{free / GIB:.1f} GiB are free there; free some space, or add --no-cache"
        )


def _conditioning_bytes(base: Base) -> int:
    """Of one picture, in float32."""
    width = read_settings(
        CaptionDecoderDescription, base.folder / "caption_decoder" / CAPTION_DECODER_SETTINGS_FILE
    ).conditioning_width
    return base.queries * width * 4


def _saved(run_folder: Path) -> FinetuneConfig | None:
    """The config that the run in a folder was begun with."""
    path = run_folder / _SETTINGS
    if not path.is_file():
        return None
    return check_config(FinetuneConfig, read_object(path, TrainingError), str(path))


def _check_same(settings: FinetuneSettings, saved: FinetuneConfig, config: FinetuneConfig) -> None:
    """Raise ConfigError where a run was begun in the folder with other settings."""
    out = printable(settings.out)
    if saved.base_sha256 != config.base_sha256:
        raise ConfigError(
            f"{out} is a fine-tune of {printable(saved.base)}, not of {printable(config.base)}; "
            "name another --out"
        )
    before, now = saved.model_dump(mode="json"), config.model_dump(mode="json")
    for name in ("output_dir", "base", "data"):  # the same ones under other names
        before.pop(name), now.pop(name)
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        name = changed[0]
        raise ConfigError(
            f"{out} was begun with other settings or pictures ({name} {before.get(name)}, now "
            f"{now[name]}); give the same ones, or name another --out"
        )


def _views(
    settings: FinetuneSettings,
    base: Base,
    config: FinetuneConfig,
    pictures: Pictures,
    folder: Path,
    say: Callable[[str], None],
    watch: Watch[Any],
) -> tuple[Views, Reader | None]:
    """What is read of each picture; the reader only where it goes on being needed."""
    device = computing_device()
    half = config.mixed_precision == "bf16"
    model = load_model(base.folder, dtype=torch.bfloat16 if half else torch.float32, device=device)
    reader = Reader(model.encoder, model.text_tower, base.manifest.config.captions_from)
    size, crop = base.image_size, config.crop_size
    if not settings.cache:
        return Views(pictures, pictures.good, size, crop, None), reader
    kept = KeptConditionings(folder, pictures.good)

    def compute(one: Captioned) -> torch.Tensor:
        pixels = torch.from_numpy(pixels_of(pictures, one, size, crop).copy())[None].to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            return reader(pixels)

    missing = kept.missing()
    if missing:
        started = time.monotonic()
        compute(missing[0])
        started = time.monotonic()
        compute(missing[0])
        seconds = (time.monotonic() - started) * len(missing)
        megabytes = len(pictures.good) * _conditioning_bytes(base) / 1e6
        say(
            f"first each picture is read once: {_duration(seconds)}, {megabytes:.0f} MB on the "
            "disk until the end"
        )
        kept.fill(compute, watch(missing, len(missing), "reading"))
    return Views(pictures, pictures.good, size, crop, kept), None


def _stage(
    base: Base,
    config: FinetuneConfig,
    pictures: Pictures,
    views: Views,
    reader: Reader | None,
    settings: FinetuneSettings,
    say: Callable[[str], None],
) -> Stage:
    half, lora = config.mixed_precision == "bf16", config.method == "lora"
    decoder = load_caption_decoder(
        base.folder / "caption_decoder",
        torch.bfloat16 if half and lora else torch.float32,
        config.quantization,
        computing_device(),
    )
    # Fresh weights are a function of the seed alone.
    torch.manual_seed(config.seed)
    learned, held = pictures.split(settings.validation, config.seed)
    objective = FinetuneObjective(
        decoder,
        Manifest(
            config=base.manifest.config,
            components=["caption_decoder"] if settings.full else [],
            adapter=base.record,
            provenance=inherited(base.manifest.provenance),
        ),
        lora_rank=config.lora_rank if lora else None,
        max_tokens=config.max_tokens,
        batch_size=settings.batch_size,
        half=half,
        reader=reader,
        held_out=held,
        views=views,
        show=say,
    )
    if config.gradient_checkpointing:
        objective.checkpoint_gradients()
    samples = FinetuneSamples(
        views,
        learned,
        CaptionTokens(decoder.tokenizer, config.max_tokens),
        seed=config.seed,
        dropout=config.caption_dropout,
        fingerprint=pictures.fingerprint,
    )
    return Stage(NAME, config, objective, samples)


def _say_how_long(stage: Stage, say: Callable[[str], None]) -> None:
    """Measure a step, of which nothing is kept, and say what all steps will take."""
    config, objective = stage.config, stage.objective
    assert isinstance(config, FinetuneConfig)
    done = [
        int(one.name.removeprefix("checkpoint-")) for one in list_checkpoints(config.output_dir)
    ]
    step = max(done, default=0)
    batch = default_collate(
        [stage.samples.item(at, at % len(stage.samples)) for at in range(config.train_batch_size)]
    )
    batch = to_device(batch, objective.device)
    objective.train()
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        with torch.autocast(
            objective.device.type,
            dtype=torch.bfloat16,
            enabled=config.mixed_precision == "bf16",
        ):
            loss, _metrics = objective(batch)
        loss.backward()
        loss.item()
        seconds = time.monotonic() - started
    objective.zero_grad(set_to_none=True)
    left = config.max_train_steps - step
    seconds *= config.gradient_accumulation_steps * left
    batch_size = config.train_batch_size * config.gradient_accumulation_steps
    epochs = config.max_train_steps * batch_size / len(stage.samples)
    begun = f"goes on from step {step} of" if step else "then"
    say(
        f"{begun} {config.max_train_steps} steps of {batch_size} pictures ({epochs:.0f} epochs): "
        f"{_duration(seconds)}"
    )


@contextmanager
def _interrupt_as_sigterm() -> Iterator[None]:
    """Inside, Ctrl-C ends a run as SIGTERM does: with a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _finish(
    settings: FinetuneSettings,
    config: FinetuneConfig,
    base: Base,
    pictures: Pictures,
    final: Path,
    objective: FinetuneObjective,
    say: Callable[[str], None],
) -> None:
    """Put what the run exported in its place, `vlv.json` last, and remove what only it needed."""
    record = read_record(final)
    after = record["validation"].get("caption_loss")
    with writing(settings.out):
        write_card(
            settings, config, base.record, record, objective.before, len(pictures.good), final
        )
        (final / RECORD).unlink()
        manifest = final / MANIFEST_FILE
        for path in [*(one for one in final.iterdir() if one != manifest), manifest]:
            target = settings.out / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    _clear(config)
    if after is not None and objective.before is not None:
        better = after < objective.before
        say(
            f"loss of held-out captions: {objective.before:.3f} before, {after:.3f} now"
            + ("" if better else "; it did not get better: try a lower --learning-rate")
        )


def _clear(config: FinetuneConfig) -> None:
    """Remove what a run needs only as long as it is not finished."""
    folder = config.output_dir
    for path in (folder / "final", folder / "index", *list_checkpoints(folder)):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("conditionings-*"):
        shutil.rmtree(path, ignore_errors=True)
    (folder / "best.safetensors").unlink(missing_ok=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} seconds"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _short(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"
