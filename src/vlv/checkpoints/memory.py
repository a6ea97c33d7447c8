"""How much memory a model folder needs, computed before anything of it is loaded.

Reads the headers of weight files (`sizes`) and the parts' configs. Exact: the bytes of the
parameters, and of the language model's cache of keys and values. An estimate: what layers hold
while they work, which is counted as a few times their widest tensor.

Shapes: B images at once, S sequences of the language model for each, L tokens of a sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlv.checkpoints.components import library_config, read_settings
from vlv.checkpoints.inspection import read_config
from vlv.checkpoints.manifest import read_manifest
from vlv.checkpoints.parts import ENCODER_SETTINGS_FILE, PARTS, Quantization
from vlv.checkpoints.sizes import folder_sizes, weight_bytes
from vlv.models.config import BOXES, BoxName, EncoderDescription

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Work:
    """What a model is opened for: which boxes, and how much they do at once.

    `sequences` is the number of texts that are written at once for an image: beams, or samples.
    """

    boxes: tuple[BoxName, ...] = BOXES
    batch_size: int = 8
    sequences: int = 4
    max_new_tokens: int = 300
    guidance: bool = True


@dataclass(frozen=True)
class Need:
    """Bytes: the weights of each box, and the most that any box takes beside them at work.

    With `offload` one box at a time is on the device, and all of them wait in the CPU's memory.
    """

    weights: dict[BoxName, int]
    working: int
    offload: bool = False

    @property
    def total(self) -> int:
        """What the device has to hold."""
        sizes = self.weights.values()
        return (max(sizes, default=0) if self.offload else sum(sizes)) + self.working


def needed(
    folder: Path,
    work: Work,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
    offload: bool = False,
) -> Need:
    """What a model folder needs for some work.

    Raises CheckpointError for damaged weights and for configs that cannot be read.
    """
    weights = weight_bytes(folder_sizes(folder), work.boxes, dtype.itemsize, quantization)
    # The boxes work one after another, and what one held is free before the next begins.
    working = max((_WORKING[box](folder, work, dtype) for box in weights), default=0)
    return Need(weights, working, offload)


def free_memory(device: torch.device) -> int:
    """Bytes that a device has free, as the system reports them."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def cache_values(config: "PreTrainedConfig", sequences: int, length: int) -> int:
    """Keys and values of `sequences` texts of `length` positions, by a language model's config."""
    heads = config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kept * width * sequences * length)


# Bytes that each box holds at work. The factors are the number of tensors as wide as its widest
# that are alive at once, counted in runs of the boxes at full width.
_FLOAT32 = torch.float32.itemsize


def _encoder_work(folder: Path, work: Work, dtype: torch.dtype) -> int:
    """The first layers of the vision tower, which see the most positions; their channel attention
    makes float32 of half precision.
    """
    from transformers import Florence2Config

    settings = read_settings(EncoderDescription, folder / "encoder" / ENCODER_SETTINGS_FILE)
    vision = library_config(Florence2Config, folder / "encoder").vision_config
    positions = (settings.image_size // vision.patch_stride[0]) ** 2
    wide = positions * vision.embed_dim[0] * vision.mlp_ratio
    return int(3 * work.batch_size * wide * _FLOAT32)


def _text_tower_work(folder: Path, work: Work, dtype: torch.dtype) -> int:
    from transformers import CLIPTextConfig

    clip = library_config(CLIPTextConfig, folder / "text_tower")
    wide = clip.max_position_embeddings * clip.intermediate_size
    return int(3 * work.batch_size * wide * dtype.itemsize)


def _caption_decoder_work(folder: Path, work: Work, dtype: torch.dtype) -> int:
    """The most of reading c, and of selecting the last token, when the cache is full; the cache is
    exact, and of one layer of it there is a copy while beams change places.
    """
    from transformers import AutoConfig, CLIPTextConfig

    config = library_config(AutoConfig, folder / PARTS["language_model"].folder)
    config = config.get_text_config()
    read = library_config(CLIPTextConfig, folder / "text_tower").max_position_embeddings
    sequences = work.batch_size * work.sequences
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    begun, full = (
        cache_values(config, sequences, length) * dtype.itemsize
        for length in (read, read + work.max_new_tokens)
    )
    reading = begun + 4 * sequences * read * wide * dtype.itemsize
    selecting = 4 * sequences * config.vocab_size * _FLOAT32
    return int(max(reading, full + full // config.num_hidden_layers + selecting))


def _decoder_work(folder: Path, work: Work, dtype: torch.dtype) -> int:
    """The VAE's last layers, or the U-Net's outermost ones, with and without the condition."""
    side = read_manifest(folder).config.decoder_image_size
    vae, unet = (read_config(folder / name / "config.json") for name in ("vae", "unet"))
    channels = vae["block_out_channels"]
    latent = side // 2 ** (len(channels) - 1)
    drawn = 3 * work.batch_size * side**2 * channels[min(1, len(channels) - 1)]
    rows = work.batch_size * (2 if work.guidance else 1)
    denoised = 26 * rows * latent**2 * unet["block_out_channels"][0]
    return int(max(drawn, denoised) * dtype.itemsize)


_WORKING: dict[BoxName, Callable[[Path, Work, torch.dtype], int]] = {
    "encoder": _encoder_work,
    "text_tower": _text_tower_work,
    "caption_decoder": _caption_decoder_work,
    "decoder": _decoder_work,
}
