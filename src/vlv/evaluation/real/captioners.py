"""Captioners that run here: models of ours, and models of transformers that read an image.

Both are opened by `open_captioner` and caption batches of images. A model of transformers is loaded
as the pipeline `image-text-to-text` loads it, from its config, its weights and its processor;
no code that comes with a model is run. Knows no set and no file of captions.
"""

import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from vlv.checkpoints.hub import resolve, snapshot_commit
from vlv.checkpoints.memory import Work
from vlv.checkpoints.parts import CAPTIONING, MANIFEST_FILE
from vlv.checkpoints.quantization import no_progress_bar
from vlv.errors import CheckpointError, ConfigError, ImageError
from vlv.evaluation.results import folder_hash, opened_hash
from vlv.inference.captioning import CaptionSettings, caption_images
from vlv.inference.loading import named_dtype, open_model
from vlv.inference.records import ImageInput, Refused
from vlv.models.precision import chosen_device
from vlv.models.seeds import kept_generators
from vlv.models.vlv import VLVModel
from vlv.text import printable, read_object

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

FLORENCE_TASK = "<MORE_DETAILED_CAPTION>"
_CONFIG = "config.json"


@dataclass(frozen=True)
class Generation:
    """How captions are generated. A temperature of 0 searches with `num_beams`; above 0 each image
    is sampled by itself, from a seed that depends on `seed` and the image's name.

    prompt: None is what `open_captioner` says for the model.
    """

    num_beams: int = 4
    max_new_tokens: int = 300
    temperature: float = 0.0
    seed: int = 0
    prompt: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"a temperature is 0 or more and finite, not {self.temperature}")

    def seed_of(self, name: str) -> int:
        """Of one image, so that captions do not depend on what was captioned before."""
        digest = hashlib.sha256(f"{self.seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:7], "big")


@dataclass(frozen=True)
class Written:
    """A caption that a model wrote. prompt_tokens counts the text and the image's tokens; None
    where a model reads embeddings in their place.
    """

    text: str
    completion_tokens: int
    prompt_tokens: int | None = None


class Captioner(ABC):
    """A model that is loaded. `about` says what it is, as JSON values."""

    about: dict[str, Any]

    def caption(self, images: Sequence[ImageInput]) -> tuple[list[Written | Refused], float]:
        """One result for each image, and the seconds that all took."""
        start = time.perf_counter()
        results = self.write(images)
        return results, time.perf_counter() - start

    @abstractmethod
    def write(self, images: Sequence[ImageInput]) -> list[Written | Refused]:
        """One result for each image; an image that does not decode is refused."""


def open_captioner(
    id_or_path: str,
    generation: Generation,
    *,
    revision: str | None = None,
    device: str | None,
    dtype: str | None,
) -> Captioner:
    """The captioner of an id or folder: one of ours where it has a `vlv.json` or is a checkpoint of
    the paper's authors, otherwise a model of transformers.

    The prompt of a model of transformers is `generation.prompt`; of Florence-2 the task
    `FLORENCE_TASK`; of a model that chats, the instruction of `vlv data caption`; otherwise none.

    Raises:
        CheckpointError: there is no such model, or transformers cannot open it.
        ConfigError: the device or dtype does not exist; a prompt for a model that takes none.
    """
    folder = _of_transformers(id_or_path, revision)
    if folder is not None:
        return TransformersCaptioner(id_or_path, folder, generation, device, dtype)
    if generation.prompt is not None:
        raise ConfigError("--prompt is for other models: a VLV model follows no instruction")
    beams = generation.num_beams
    work = Work(CAPTIONING, 1, beams, generation.max_new_tokens, searches=beams > 1)
    model = open_model(id_or_path, revision=revision, device=device, dtype=dtype, work=work)
    return VLVCaptioner(model, id_or_path, generation)


class VLVCaptioner(Captioner):
    """A model of ours, through the pipeline of `vlv caption`."""

    def __init__(self, model: VLVModel, name: str, generation: Generation) -> None:
        self.model = model
        self._generation = generation
        assert model.opened_from is not None
        # Loaded before the first caption is timed.
        _ = model.encoder, model.text_tower, model.caption_decoder
        self.about = {
            "captioner": name,
            "kind": "vlv",
            "revision": snapshot_commit(model.opened_from),
            "sha256": opened_hash(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "num_beams": generation.num_beams,
            "max_new_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            "seed": generation.seed,
        }

    def write(self, images: Sequence[ImageInput]) -> list[Written | Refused]:
        """All in one batch; samples one by one."""
        given = self._generation
        settings = CaptionSettings(
            num_beams=None if given.temperature else given.num_beams,
            max_new_tokens=given.max_new_tokens,
            temperature=given.temperature,
        )
        if not given.temperature:
            results = list(caption_images(self.model, images, settings, batch_size=len(images)))
        else:
            results = [
                one
                for image in images
                for one in caption_images(
                    self.model, [image], replace(settings, seed=given.seed_of(image.name))
                )
            ]
        return [
            one if isinstance(one, Refused) else Written(one.caption, one.tokens) for one in results
        ]


class TransformersCaptioner(Captioner):
    """Any model of transformers' task image-text-to-text, Florence-2 among them."""

    def __init__(
        self,
        name: str,
        folder: Path,
        generation: Generation,
        device: str | None,
        dtype: str | None,
    ) -> None:
        self._generation = generation
        self._model, self._processor = _load(folder, device, dtype)
        self._chats = getattr(self._processor, "chat_template", None) is not None
        self.prompt = self._prompt(generation.prompt)
        self.about = {
            "captioner": name,
            "kind": "transformers",
            "class": type(self._model).__name__,
            "revision": snapshot_commit(folder),
            "sha256": folder_hash(folder),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "prompt": self.prompt,
            "num_beams": generation.num_beams,
            "max_new_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            "seed": generation.seed,
        }

    def _prompt(self, given: str | None) -> str:
        if self._model.config.model_type == "florence2":
            return given or FLORENCE_TASK
        if given is None and self._chats:
            from vlv.data.teacher.request import INSTRUCTION

            return INSTRUCTION
        return given or ""

    def write(self, images: Sequence[ImageInput]) -> list[Written | Refused]:
        """One by one: padding of prompts and sizes of images differ from processor to processor."""
        return [self._one(image) for image in images]

    def _one(self, image: ImageInput) -> Written | Refused:
        try:
            picture = image.picture()
        except ImageError as error:
            return Refused(image.name, error.reason, str(error))
        inputs = self._inputs(picture).to(self._model.device, self._model.dtype)
        prompt_tokens = int(inputs["input_ids"].shape[1]) if "input_ids" in inputs else 0
        given = self._generation
        sampling: dict[str, Any] = {"do_sample": False, "num_beams": given.num_beams}
        if given.temperature:
            sampling = {"do_sample": True, "temperature": given.temperature, "num_beams": 1}
        with kept_generators(self._model.device), torch.inference_mode():
            torch.manual_seed(given.seed_of(image.name))
            rows = self._model.generate(**inputs, max_new_tokens=given.max_new_tokens, **sampling)
        ids = rows[0]
        if not self._model.config.is_encoder_decoder and prompt_tokens:
            ids = ids[prompt_tokens:]
        tokenizer = self._processor.tokenizer
        text = " ".join(tokenizer.decode(ids, skip_special_tokens=True).split())
        if not text:
            return Refused(
                image.name, "empty-caption", f"the model wrote an empty caption for {image.name}"
            )
        padding = sum(one == tokenizer.pad_token_id for one in ids.tolist())
        return Written(text, len(ids) - padding, prompt_tokens)

    def _inputs(self, picture: Image.Image) -> "BatchFeature":
        if not self._chats:
            text = {"text": self.prompt} if self.prompt else {}
            return self._processor(images=picture, **text, return_tensors="pt")
        content = [{"type": "image", "image": picture}, {"type": "text", "text": self.prompt}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )


def _of_transformers(name: str, revision: str | None) -> Path | None:
    """The folder of a model of transformers, fetched where it is on the Hub; None for others: it
    has no `vlv.json`, and transformers knows the kind of model in its config.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    folder = resolve(name, revision)
    config = folder / _CONFIG
    if (folder / MANIFEST_FILE).is_file() or not config.is_file():
        return None
    kind = read_object(config, CheckpointError).get("model_type")
    return folder if kind in CONFIG_MAPPING_NAMES else None


def _load(
    folder: Path, device: str | None, dtype: str | None
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    from transformers import AutoModelForImageTextToText, AutoProcessor

    given, place = named_dtype(dtype), chosen_device(device)
    kind = given or ("auto" if place.type == "cuda" else torch.float32)
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        with no_progress_bar():
            model = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=kind, use_safetensors=True, trust_remote_code=False
            )
    except (
        *(OSError, ValueError, ImportError, KeyError, AttributeError, TypeError, RuntimeError),
    ) as error:
        reason = printable(str(error).strip().split("\n")[0])
        raise CheckpointError(
            f"transformers cannot open {printable(folder)} as an image-text-to-text model "
            f"({reason})"
        ) from error
    return model.to(place).eval(), processor
