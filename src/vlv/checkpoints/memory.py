"""How much memory a model folder needs, computed before anything of it is loaded.

Reads the headers of weight files (`sizes`) and the parts' configs. Exact: the bytes of the
parameters, and of the language model's cache of keys and values. An estimate: what layers hold
while they work, which is counted as a few times their widest tensor.

Shapes: B images at once, S sequences of the language model for each, L tokens of a sequence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlv.checkpoints.components import library_config, read_settings
from vlv.checkpoints.headers import tensor_shapes
from vlv.checkpoints.inspection import read_config
from vlv.checkpoints.manifest import read_manifest
from vlv.checkpoints.parts import ENCODER_SETTINGS_FILE, PARTS, BaseModelName, Quantization
from vlv.checkpoints.sizes import folder_sizes, weight_bytes
from vlv.models.config import BOXES, BoxName, EncoderDescription, FamilyName
from vlv.models.families import FAMILIES
from vlv.models.precision import gains_from_packing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """What a model is opened for: which boxes, and how much they do at once.

    `sequences` is the number of texts that are written at once for an image: beams, or samples.
    `searches`: captions are searched with beams. Otherwise an engine writes them, which may hold
    large weights in another order.
    """

    boxes: tuple[BoxName, ...] = BOXES
    batch_size: int = 8
    sequences: int = 4
    max_new_tokens: int = 300
    guidance: bool = True
    searches: bool = True


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
    device: torch.device = _CPU,
) -> Need:
    """What a model folder needs for some work on a device.

    Raises CheckpointError for damaged weights and for configs that cannot be read.
    """
    weights = weight_bytes(folder_sizes(folder), work.boxes, dtype.itemsize, quantization)
    if "caption_decoder" in weights and not work.searches and gains_from_packing(device, dtype):
        weights["caption_decoder"] += _shared_head_values(folder) * dtype.itemsize
    # The boxes work one after another, and what one held is free before the next begins.
    working = max((_WORKING[box](folder, work, dtype) for box in weights), default=0)
    return Need(weights, working, offload)


# Less is not worth a line.
REPORTED_FROM = 1_000_000_000


def published_memory(
    folders: Mapping[BaseModelName, Path], family: FamilyName, dtype: torch.dtype
) -> str | None:
    """A line about the memory that published parts take together; None for less than 1 GB."""
    left_out = {PARTS[name].published for name in FAMILIES[family].optional}
    places = {part.published for part in PARTS.values() if part.published} - left_out
    sizes = dict.fromkeys(folders, 0)
    for role, place in (one for one in places if one is not None):
        files = (folders[role] / place).glob("*.safetensors")
        sizes[role] += sum(prod(shape) for file in files for _, shape in tensor_shapes(file))
    total = sum(sizes.values()) * dtype.itemsize
    if total < REPORTED_FROM:
        return None
    each = ", ".join(f"{role} {n * dtype.itemsize / 1e9:.1f}" for role, n in sizes.items())
    free = free_memory(torch.device("cpu"))
    return f"needs about {total / 1e9:.1f} GB ({each}); {free / 1e9:.1f} GB are free on cpu"


def free_memory(device: torch.device) -> int:
    """Bytes that a device has free, as the system reports them."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def cache_values(config: "PreTrainedConfig", sequences: int, length: int) -> int:
    """Keys and values of `sequences` texts of `length` positions, by a language model's config, as
    if all of its layers kept them; none where it has no attention.
    """
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        return 0
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kept * width * sequences * length)


def _shared_head_values(folder: Path) -> int:
    """Values of a head that shares its weight with the embeddings: packed, it is there twice."""
    config = _language_model_config(folder)
    return int(config.vocab_size * config.hidden_size) if config.tie_word_embeddings else 0


def _language_model_config(folder: Path) -> "PreTrainedConfig":
    from transformers import AutoConfig

    config = library_config(AutoConfig, folder / PARTS["language_model"].folder)
    text_config: PreTrainedConfig = config.get_text_config()
    return text_config


# Bytes that each box holds at work. The factors are the number of tensors as wide as its widest
# that are alive at once, counted in runs of the boxes at full width.
_FLOAT32 = torch.float32.itemsize
# Tokens of a text where its encoder sets no limit.
_TOKENS = 512


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
    """The widest layer of any of its text encoders."""
    configs = [read_config(one / "config.json") for one in text_encoder_folders(folder)]
    wide = max(one.get("intermediate_size") or one.get("d_ff") or 0 for one in configs)
    return int(3 * work.batch_size * _positions(folder) * wide * dtype.itemsize)


def text_encoder_folders(folder: Path) -> list[Path]:
    """Where the text encoders of a model folder lie."""
    names = FAMILIES[read_manifest(folder).config.family].text_encoders
    places = [folder / PARTS[name].folder for name in names]
    return [place for place in places if (place / "config.json").is_file()] or places[:1]


def _positions(folder: Path) -> int:
    """How long c is at most: as many tokens as a CLIP has positions."""
    configs = [read_config(one / "config.json") for one in text_encoder_folders(folder)]
    return min(_TOKENS, *(int(one.get("max_position_embeddings") or _TOKENS) for one in configs))


def _caption_decoder_work(folder: Path, work: Work, dtype: torch.dtype) -> int:
    """The most of reading c, and of selecting the last token, when the cache is full; the cache is
    exact, and of one layer of it there is a copy while beams change places.
    """
    config = _language_model_config(folder)
    read = _positions(folder)
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
    """The VAE's last layers, or the denoiser's widest ones, with and without the condition."""
    settings = read_manifest(folder).config
    family = FAMILIES[settings.family]
    denoiser = family.denoiser
    vae, config = (read_config(folder / name / "config.json") for name in ("vae", denoiser))
    side = settings.decoder_image_size
    channels = vae.get("block_out_channels") or vae["decoder_block_out_channels"]
    latent = side // 2 ** (len(channels) - 1)
    drawn = 3 * work.batch_size * side**2 * channels[min(1, len(channels) - 1)]
    rows = work.batch_size * (2 if work.guidance and family.negative_prompt else 1)
    if denoiser == "unet":
        places, width = latent**2, config["block_out_channels"][0]
    else:
        patches = (latent // (config.get("patch_size") or 1)) ** 2
        places = patches // family.packing + _TOKENS
        width = config["num_attention_heads"] * config["attention_head_dim"]
    denoised = 26 * rows * places * width
    return int(max(drawn, denoised) * dtype.itemsize)


_WORKING: dict[BoxName, Callable[[Path, Work, torch.dtype], int]] = {
    "encoder": _encoder_work,
    "text_tower": _text_tower_work,
    "caption_decoder": _caption_decoder_work,
    "decoder": _decoder_work,
}
