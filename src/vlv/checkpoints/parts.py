"""The parts of a model: names, boxes and files in a model folder, and where published models hold
them. One table; loads no torch.
"""

from dataclasses import dataclass
from typing import Literal

from vlv.models.config import BoxName, Component, FamilyName
from vlv.models.families import FAMILIES

MANIFEST_FILE = "vlv.json"
CARD_FILE = "README.md"
# The key in its provenance for a checkpoint in the layout of the paper's authors.
AUTHORS_RECORD = "authors_checkpoint"
# What makes a model folder one of transformers too; it changes no caption and no picture.
CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
PROCESSOR_FILE = "processor_config.json"
# Beside a fine-tune: what only the run that made it needs.
RUN_FOLDER = "run"
# Where diffusers says what a pipeline is made of.
PIPELINE_FILE = "model_index.json"
TRANSFORMERS_WEIGHTS = "model.safetensors"
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
# A language model for llama.cpp, in place of the library's weights.
GGUF_FILE = "model.gguf"

PartName = Literal[
    "encoder",
    "head",
    "text_tower",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "vae",
    "unet",
    "transformer",
    "psi",
    "language_model",
]
# The published models that a VLV is made of.
BaseModelName = Literal["encoder", "decoder", "language_model"]
# By bitsandbytes, which can train adapters beside it.
BitsAndBytes = Literal["8bit", "4bit"]
# And int8, for CPUs.
Quantization = Literal["8bit", "4bit", "int8"]


@dataclass(frozen=True)
class Part:
    """A set of tensors of a box: `folder` and `file` are its place in a model folder.

    published: the folder of the same network in a published model, None for what is VLV's own.
    """

    box: BoxName
    component: Component
    folder: str
    file: str
    published: tuple[BaseModelName, str] | None = None

    @property
    def path(self) -> str:
        """The weights file, relative to the model folder."""
        return f"{self.folder}/{self.file}"


TEXT_ENCODERS: tuple[PartName, ...] = ("text_encoder", "text_encoder_2", "text_encoder_3")


def _text_encoder(name: PartName) -> Part:
    """One of several text encoders, which has a folder of its own in the text tower's."""
    return Part(
        "text_tower", "text_tower", f"text_tower/{name}", TRANSFORMERS_WEIGHTS, ("decoder", name)
    )


PARTS: dict[PartName, Part] = {
    "encoder": Part("encoder", "encoder", "encoder", TRANSFORMERS_WEIGHTS, ("encoder", ".")),
    # The queries and phi.
    "head": Part("encoder", "encoder", "encoder", "vlv_head.safetensors"),
    "text_tower": Part(
        "text_tower", "text_tower", "text_tower", TRANSFORMERS_WEIGHTS, ("decoder", "text_encoder")
    ),
    # Of families with several text encoders, by diffusers' names.
    **{name: _text_encoder(name) for name in TEXT_ENCODERS},
    "vae": Part("decoder", "vae", "vae", DIFFUSERS_WEIGHTS, ("decoder", "vae")),
    "unet": Part("decoder", "unet", "unet", DIFFUSERS_WEIGHTS, ("decoder", "unet")),
    "transformer": Part(
        "decoder", "transformer", "transformer", DIFFUSERS_WEIGHTS, ("decoder", "transformer")
    ),
    "psi": Part("caption_decoder", "caption_decoder", "caption_decoder", "psi.safetensors"),
    "language_model": Part(
        "caption_decoder",
        "caption_decoder",
        "caption_decoder/language_model",
        TRANSFORMERS_WEIGHTS,
        ("language_model", "."),
    ),
}
# Boxes that captioning needs, and that drawing needs.
CAPTIONING: tuple[BoxName, ...] = ("encoder", "text_tower", "caption_decoder")
DRAWING: tuple[BoxName, ...] = ("encoder", "text_tower", "decoder")
# Settings beside the weights of a component, by file.
ENCODER_SETTINGS_FILE = "vlv_encoder.json"
CAPTION_DECODER_SETTINGS_FILE = "vlv_caption_decoder.json"

# What is fetched of a published model: repositories hold other formats and precisions.
_TEXT_FILES = ["*.json", "*.txt"]
_DECODER_FOLDERS = (
    *(f"{name}{number}" for name in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")),
    "vae",
    "unet",
    "transformer",
    "scheduler",
)
HUB_FILES: dict[BaseModelName, list[str]] = {
    "encoder": [*_TEXT_FILES, "model*.safetensors"],
    "language_model": [*_TEXT_FILES, "model*.safetensors"],
    "decoder": [
        f"{folder}/{files}"
        for folder in _DECODER_FOLDERS
        for files in ("*.json", "*.txt", "*model.safetensors", "*model-0*.safetensors")
    ],
}


def family_parts(family: FamilyName) -> dict[PartName, Part]:
    """The parts of a model with a text-to-image model of this family."""
    record = FAMILIES[family]
    theirs = {*record.text_encoders, "vae", record.denoiser}
    return {
        name: part
        for name, part in PARTS.items()
        if part.box not in ("text_tower", "decoder") or name in theirs
    }


def parts_of(box: BoxName) -> tuple[PartName, ...]:
    """The parts that make up a box."""
    return tuple(name for name, part in PARTS.items() if part.box == box)
