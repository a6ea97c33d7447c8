"""What a fine-tune is going to do: checked against what lies in its folder, counted, and said."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from transformers import AutoTokenizer

from vlv.checkpoints.adapters import adapter_record
from vlv.checkpoints.components import load_tokenizer
from vlv.checkpoints.memory import free_memory
from vlv.checkpoints.parts import MANIFEST_FILE, PARTS
from vlv.errors import ConfigError, TrainingError
from vlv.files import write_text
from vlv.models.caption_tokens import caption_ids
from vlv.models.precision import computes_bfloat16
from vlv.text import counted, printable, read_object
from vlv.training.accelerator import computing_device
from vlv.training.config import check_config
from vlv.training.finetuning.base import Base, conditioning_bytes
from vlv.training.finetuning.config import FinetuneConfig, FinetuneSettings, Shape, run_config
from vlv.training.finetuning.memory import empty_model, finetune_memory, fitting
from vlv.training.finetuning.pictures import Pictures, all_captions, digest
from vlv.training.memory import GIB
from vlv.training.run_folder import writing

# What a run was begun with, in its folder.
_SETTINGS = "settings.json"
# A caption of more tokens is cut.
_MOST_TOKENS = 300
# Fields of a run's config, and what a user did otherwise where they differ; the first one is said.
# All others follow from epochs and batches.
_OTHERWISE = {
    "seed": "another --seed",
    "method": "another choice of --full",
    "learning_rate": "another --learning-rate",
    "lora_rank": "another --lora-rank",
    "quantization": "another --quantization",
    "crop_size": "another --view",
    "first_line": "another choice of --first-line",
    "caption_dropout": "another --caption-dropout",
    "trigger": "another --trigger",
    "pictures": "other pictures or captions",
    "validation_count": "another --validation",
    "mixed_precision": "a device of another precision",
}


def check_out(settings: FinetuneSettings, base: Base) -> None:
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


def make_plan(
    settings: FinetuneSettings, base: Base, pictures: Pictures, say: Callable[[str], None]
) -> tuple[FinetuneConfig, Path]:
    """The config of the run, that of an earlier one if it is the same run; and the folder for
    conditionings. What is going to be done is said.
    """
    learned, held = pictures.split(settings.validation, settings.seed)
    _say_pictures(pictures, len(learned), len(held), say)
    longest = _most_tokens(base, pictures, say)
    device = computing_device()
    half = device.type == "cuda" and computes_bfloat16(device)
    if settings.cache:
        _check_room(settings, base, len(pictures.good))
    shape = Shape(
        lora_rank=None if settings.full else settings.lora_rank,
        quantization=settings.quantization,
        half=half,
        kept=settings.cache,
        max_tokens=longest,
        micro_batch=min(settings.batch_size, len(learned)),
    )
    free = free_memory(device)
    saved = _saved(settings.run_folder)
    if saved is None:
        shape, need = fitting(base.folder, shape, free)
    else:
        # Of another batch the run is another one, which is said below.
        if shape.micro_batch == saved.train_batch_size * saved.gradient_accumulation_steps:
            shape = replace(
                shape,
                micro_batch=saved.train_batch_size,
                gradient_checkpointing=saved.gradient_checkpointing,
            )
        need = finetune_memory(empty_model(base.folder), shape)
    config = run_config(
        settings,
        base_sha256=base.record.base_sha256,
        crop_size=base.record.crop_size,
        learned=len(learned),
        held_out=len(held),
        shape=shape,
        pictures=pictures.fingerprint,
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
        f"{_size(need.total)} of memory ({_size(free)} free on {device})"
        + (", with gradient checkpointing" if shape.gradient_checkpointing else "")
    )
    _save(config, settings.run_folder)
    key = digest(
        f"{base.record.base_sha256} {base.record.crop_size} {half} {pictures.fingerprint}".encode()
    )
    return config, settings.run_folder / f"conditionings-{key[:12]}"


def _say_pictures(pictures: Pictures, learned: int, held: int, say: Callable[[str], None]) -> None:
    several = sum(len(one.captions) > 1 for one in pictures.good)
    say(
        f"{counted(len(pictures.good), 'picture')} with captions: {learned} to train on, {held} "
        "held out"
        + (
            f"; {several} of them with several captions, of which one is drawn each time "
            "(--first-line uses the first alone)"
            if several
            else ""
        )
    )
    if pictures.without:
        first = printable(pictures.without[0])
        left_out = counted(len(pictures.without), "picture")
        say(f"{left_out} without a caption left out ({first} first)")
    for reason in pictures.refused:
        say(f"left out: {printable(reason)}")
    if len(pictures.good) > 1 and len(set(all_captions(pictures.good))) == 1:
        say("warning: all captions are the same: it will learn to write this one for any picture")


def _most_tokens(base: Base, pictures: Pictures, say: Callable[[str], None]) -> int:
    """The length of the longest caption, its end among them, and as far as it is read."""
    tokenizer = load_tokenizer(AutoTokenizer, base.folder / PARTS["language_model"].folder)
    _, lengths = caption_ids(tokenizer, all_captions(pictures.good), None)
    cut = int((lengths > _MOST_TOKENS).sum())
    if cut:
        say(
            f"warning: {counted(cut, 'caption')} of more than {_MOST_TOKENS} tokens will be cut "
            f"there (the longest has {int(lengths.max()):,})"
        )
    return min(int(lengths.max()), _MOST_TOKENS)


def _check_room(settings: FinetuneSettings, base: Base, count: int) -> None:
    """Raise TrainingError where the disk has no room for the conditionings."""
    size = count * conditioning_bytes(base)
    above = next(
        one for one in (settings.out.absolute(), *settings.out.absolute().parents) if one.exists()
    )
    free = shutil.disk_usage(above).free
    if size > free:
        raise TrainingError(
            f"what the pictures give takes {_size(size)} in {printable(settings.out)}, and "
            f"{_size(free)} are free there; free some space, or add --no-cache"
        )


def _saved(run_folder: Path) -> FinetuneConfig | None:
    """The config that the run in a folder was begun with."""
    path = run_folder / _SETTINGS
    if not path.is_file():
        return None
    return check_config(FinetuneConfig, read_object(path, TrainingError), str(path))


def _save(config: FinetuneConfig, run_folder: Path) -> None:
    path = run_folder / _SETTINGS
    with writing(path):
        run_folder.mkdir(parents=True, exist_ok=True)
        write_text(path, config.model_dump_json(indent=1) + "\n")


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
    if not changed:
        return
    known = [what for name, what in _OTHERWISE.items() if name in changed]
    what = known[0] if known else "another --epochs or --batch-size"
    raise ConfigError(f"{out} was begun with {what}; give the same as then, or name another --out")


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= 0.1 * GIB else f"{count / 2**20:.0f} MiB"


def _short(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"
