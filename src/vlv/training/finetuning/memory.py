"""The memory of a fine-tune, counted on boxes without weights, as `vlv.training.memory` counts that
of stages 1 and 2; and what to do where it is more than there is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer, Florence2Model

from vlv.checkpoints.components import check_buffers, load_tokenizer, read_settings
from vlv.checkpoints.language_model import language_model_class
from vlv.checkpoints.parts import (
    CAPTION_DECODER_SETTINGS_FILE,
    ENCODER_SETTINGS_FILE,
    PARTS,
)
from vlv.checkpoints.sizes import model_sizes
from vlv.errors import TrainingError
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import (
    AdapterRecord,
    CaptionDecoderDescription,
    EncoderDescription,
    Manifest,
)
from vlv.models.encoder import VLVEncoder
from vlv.models.families.stable_diffusion import CLIPTextTower
from vlv.models.vlv import VLVModel
from vlv.training.finetuning.conditionings import Reader
from vlv.training.finetuning.config import Shape
from vlv.training.finetuning.objective import FinetuneObjective
from vlv.training.memory import GIB, Memory, PeakMemory, autocasting, step_peak, stored_bytes

# Of the objective that is counted nothing but its sizes is used.
_RECORD = AdapterRecord(base="counted", base_sha256="0" * 64)


@dataclass(frozen=True)
class FinetuneMemory:
    """Bytes on the device: first pictures are read, then the caption decoder trains."""

    training: Memory
    reading: int
    trainable: int
    """Parameters, not bytes."""
    kept: bool

    @property
    def total(self) -> int:
        """The most at any one time."""
        if self.kept:
            return max(self.training.total, self.reading)
        return self.training.total + self.reading


def empty_model(folder: Path) -> VLVModel:
    """The boxes that captions need of a model folder, without weights."""
    encoder_folder, decoder_folder = folder / "encoder", folder / "caption_decoder"
    description = read_settings(EncoderDescription, encoder_folder / ENCODER_SETTINGS_FILE)
    psi = read_settings(CaptionDecoderDescription, decoder_folder / CAPTION_DECODER_SETTINGS_FILE)
    lm_folder = folder / PARTS["language_model"].folder
    lm = check_buffers(language_model_class(lm_folder), lm_folder)
    tokenizers = (
        load_tokenizer(AutoTokenizer, encoder_folder),
        load_tokenizer(CLIPTokenizer, folder / "text_tower"),
        load_tokenizer(AutoTokenizer, lm_folder),
    )
    florence = check_buffers(Florence2Model, encoder_folder)
    clip = check_buffers(CLIPTextModel, folder / "text_tower")
    with torch.device("meta"):
        return VLVModel.from_boxes(
            encoder=VLVEncoder(
                florence, tokenizers[0], description.settings, description.slot_widths
            ),
            text_tower=CLIPTextTower(clip, tokenizers[1]),
            caption_decoder=CaptionDecoder(lm, tokenizers[2], psi.conditioning_width),
        )


def finetune_memory(model: VLVModel, shape: Shape) -> FinetuneMemory:
    """What a fine-tune of a model on the meta device needs; the model is used up."""
    reading = _reading(model, shape.half)
    decoder, positions = model.caption_decoder, model.encoder.settings.num_queries
    first: Any = decoder.psi[0]
    frozen = _frozen_bytes(decoder, shape)
    objective = _objective(decoder, shape)
    trained = list(objective.trainable().values())
    gradients = stored_bytes(trained)
    longest = shape.max_tokens
    batch = {
        "c": torch.empty(shape.micro_batch, positions, first.in_features, device="meta"),
        "caption_ids": torch.empty(shape.micro_batch, longest, dtype=torch.long, device="meta"),
        "caption_length": torch.full((shape.micro_batch,), longest),
    }
    unpacked = _largest_matrix(decoder) if shape.quantization is not None else 0
    return FinetuneMemory(
        training=Memory(
            trainable=gradients,
            frozen=frozen,
            gradients=gradients,
            optimizer=2 * gradients,
            average=0,
            update=gradients,
            activations=step_peak(objective, batch, shape.half) + unpacked,
        ),
        reading=reading,
        trainable=sum(one.numel() for one in trained),
        kept=shape.kept,
    )


def _objective(decoder: CaptionDecoder, shape: Shape) -> FinetuneObjective:
    if shape.lora_rank is not None and shape.half:
        decoder.lm.to(torch.bfloat16)
    with torch.device("meta"):
        objective = FinetuneObjective(
            decoder,
            Manifest(components=[], adapter=_RECORD),
            lora_rank=shape.lora_rank,
            max_tokens=shape.max_tokens,
            batch_size=shape.micro_batch,
        )
    if shape.gradient_checkpointing:
        objective.checkpoint_gradients()
    return objective


def _frozen_bytes(decoder: CaptionDecoder, shape: Shape) -> int:
    """The language model as it is kept, where a LoRA trains."""
    if shape.lora_rank is None:
        return 0
    sizes = model_sizes(VLVModel.from_boxes(caption_decoder=decoder))["language_model"]
    return sizes.bytes(2 if shape.half else 4, shape.quantization)


def _largest_matrix(decoder: CaptionDecoder) -> int:
    """Bitsandbytes unpacks one matrix at a time."""
    sizes = [x.numel() for name, x in decoder.lm.named_parameters() if "embed" not in name]
    return 2 * max(sizes)


def _reading(model: VLVModel, half: bool) -> int:
    """Encoder and text tower, and the peak of what they make of one picture."""
    reader = Reader(model.encoder, model.text_tower, model.manifest.config.captions_from)
    if half:
        reader.to(torch.bfloat16)
    side = model.encoder.settings.image_size
    pixels = torch.empty(1, side, side, 3, dtype=torch.uint8, device="meta")
    with PeakMemory() as memory, torch.no_grad(), autocasting(half):
        reader(pixels)
    return stored_bytes([*reader.parameters(), *reader.buffers()]) + memory.peak


def fitting(folder: Path, shape: Shape, free: int) -> tuple[Shape, FinetuneMemory]:
    """The run as it fits into `free` bytes: as it was asked for, or else with gradients
    checkpointed, or else also with micro-batches that divide the batch.

    Raises TrainingError where not even that fits.
    """
    least: FinetuneMemory | None = None
    for tried in _smaller_and_smaller(shape):
        need = finetune_memory(empty_model(folder), tried)
        if need.total <= free:
            return tried, need
        least = need
    assert least is not None  # one is always tried
    ways = []
    if shape.lora_rank is None:
        ways.append("leave out --full")
    elif shape.quantization != "4bit":
        ways.append("add --quantization 4bit")
    if not shape.kept:
        ways.append("leave out --no-cache")
    ways.append("name a model with a smaller language model")
    raise TrainingError(
        f"this fine-tune needs about {least.total / GIB:.1f} GiB of memory at the least, and "
        f"{free / GIB:.1f} GiB are free; {' or '.join(ways)}"
    )


def _smaller_and_smaller(shape: Shape) -> Iterator[Shape]:
    yield shape
    whole = shape.micro_batch
    for parts in range(1, whole + 1):
        if whole % parts == 0:
            yield replace(shape, micro_batch=whole // parts, gradient_checkpointing=True)
