"""What a fine-tune trains on and with: its pictures as the caption decoder reads them, the stage
for the training loop, and how long that will take.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

from vlv.checkpoints.boxes import load_caption_decoder
from vlv.checkpoints.opening import load_model
from vlv.checkpoints.quantization import keep_trainable
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import Manifest
from vlv.text import counted, printable
from vlv.training.accelerator import computing_device
from vlv.training.checkpoint import list_checkpoints
from vlv.training.finetuning.base import Base, conditioning_bytes
from vlv.training.finetuning.conditionings import KeptConditionings, Reader, pixels_of
from vlv.training.finetuning.config import FinetuneConfig, FinetuneSettings
from vlv.training.finetuning.objective import FinetuneObjective
from vlv.training.finetuning.pictures import CaptionedPicture, Pictures, Watch
from vlv.training.finetuning.samples import FinetuneSamples, Views
from vlv.training.finetuning.suitability import check_pictures
from vlv.training.finetuning.word_pieces import unlearned_pieces, word_pieces_of_run
from vlv.training.provenance import inherited
from vlv.training.samples.source import to_device
from vlv.training.samples.tokens import CaptionTokens
from vlv.training.stage import Stage

NAME = "finetune"
# The word pieces of a run, in its folder; how many of them are named.
_WORD_PIECES, _SHOWN_PIECES = "word_pieces.json", 8


def read_pictures(
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
    check_pictures(base.name, model, pictures, config.crop_size, say)
    reader = Reader(model.encoder, model.text_tower, base.manifest.config.captions_from)
    size, crop = base.image_size, config.crop_size
    if not settings.cache:
        return Views(pictures, pictures.good, size, crop, None), reader
    kept = KeptConditionings(folder, pictures.good)

    def compute(one: CaptionedPicture) -> torch.Tensor:
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
        megabytes = len(pictures.good) * conditioning_bytes(base) / 1e6
        say(
            f"first each picture is read once: {_duration(seconds)}, {megabytes:.0f} MB on the "
            "disk until the end"
        )
        kept.fill(compute, watch(missing, len(missing), "reading"))
    return Views(pictures, pictures.good, size, crop, kept), None


def make_stage(
    base: Base,
    config: FinetuneConfig,
    pictures: Pictures,
    views: Views,
    reader: Reader | None,
    settings: FinetuneSettings,
    say: Callable[[str], None],
) -> Stage:
    """The stage for the training loop, its caption decoder on the device."""
    half, lora = config.mixed_precision == "bf16", config.method == "lora"
    decoder = load_caption_decoder(
        base.folder / "caption_decoder",
        torch.bfloat16 if half and lora else torch.float32,
        config.quantization,
        computing_device(),
    )
    keep_trainable(decoder.lm)
    learned, held = pictures.split(settings.validation, config.seed)
    pieces: list[int] = []
    if lora:
        pieces = word_pieces_of_run(
            settings.run_folder / _WORD_PIECES,
            lambda: _unlearned(decoder, learned, views, reader, config),
        )
        _say_pieces(base.name, decoder, pieces, say)
    # Fresh weights are a function of the seed alone.
    torch.manual_seed(config.seed)
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
        batch_size=config.train_batch_size,
        word_pieces=pieces,
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


def _unlearned(
    decoder: CaptionDecoder,
    learned: Sequence[CaptionedPicture],
    views: Views,
    reader: Reader | None,
    config: FinetuneConfig,
) -> list[int]:
    """Word pieces of the captions to learn that the base has not learned."""
    device = computing_device()

    def conditioning(one: CaptionedPicture) -> torch.Tensor:
        seen = {name: value[None].to(device) for name, value in views.of(one).items()}
        return seen["c"] if reader is None else reader(seen["pixels"])

    with torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=config.mixed_precision == "bf16"
    ):
        return unlearned_pieces(
            decoder,
            ((text, partial(conditioning, one)) for one in learned for text in one.captions),
            config.max_tokens,
        )


def _say_pieces(
    name: str, decoder: CaptionDecoder, pieces: Sequence[int], say: Callable[[str], None]
) -> None:
    if not pieces:
        return
    shown = [repr(decoder.tokenizer.decode([token])) for token in pieces[:_SHOWN_PIECES]]
    say(
        f"{counted(len(pieces), 'word piece')} that {printable(name)} does not expect train too: "
        + ", ".join(map(printable, shown))
        + (", ..." if len(pieces) > len(shown) else "")
    )


def say_how_long(stage: Stage, say: Callable[[str], None]) -> None:
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
    # Whole ones: the last step may go beyond them.
    epochs = config.max_train_steps * batch_size // len(stage.samples)
    begun = f"goes on from step {step} of" if step else "then"
    say(
        f"{begun} {counted(config.max_train_steps, 'step')} of {counted(batch_size, 'picture')} "
        f"({counted(epochs, 'epoch')}): {_duration(seconds)}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {counted(max(1, round(seconds)), 'second')}"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"
