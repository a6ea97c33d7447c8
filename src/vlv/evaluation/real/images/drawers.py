"""Text-to-image models that draw captions: any pipeline of diffusers, and models of ours.

Knows no set, no captioner and no file of a picture.
"""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from vlv.checkpoints.hub import EMBEDDED, snapshot_commit
from vlv.checkpoints.memory import Work
from vlv.checkpoints.parts import DRAWING, MANIFEST_FILE
from vlv.checkpoints.quantization import no_progress_bar
from vlv.errors import CheckpointError, ConfigError
from vlv.evaluation.results import folder_hash, opened_hash
from vlv.inference.loading import named_dtype, open_model
from vlv.models.precision import chosen_device
from vlv.text import printable, read_object

SD35 = "stabilityai/stable-diffusion-3.5-medium"
_INDEX = "model_index.json"


class Drawer(ABC):
    """A text-to-image model that is loaded. `about` says what it is, as JSON values."""

    about: dict[str, Any]

    @abstractmethod
    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: float
    ) -> list[Image.Image]:
        """A picture of each prompt, each from the noise of its own seed."""

    @abstractmethod
    def reads_whole(self, prompt: str) -> bool:
        """Whether no text encoder that reads most of a prompt cuts it."""


def open_drawer(
    name: str,
    *,
    steps: int,
    size: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    offload: bool = False,
) -> Drawer:
    """The model of an id or folder. size: side of a picture in pixels; None is the model's own.

    Raises:
        ConfigError: the device or dtype does not exist; a size for a model of ours.
        CheckpointError: there is no such model, or it draws nothing from a text.
    """
    if name in EMBEDDED or (Path(name).expanduser() / MANIFEST_FILE).is_file():
        if size is not None:
            raise ConfigError("a VLV model draws at its own size; leave out --size")
        return OwnDrawer(name, steps, device, dtype, offload)
    return PipelineDrawer(name, steps, size, device, dtype, offload)


class OwnDrawer(Drawer):
    """The text tower and the diffusion decoder of a VLV model."""

    def __init__(
        self, name: str, steps: int, device: str | None, dtype: str | None, offload: bool
    ) -> None:
        boxes = tuple(box for box in DRAWING if box != "encoder")
        self._model = open_model(
            name, device=device, dtype=dtype, offload=offload, work=Work(boxes, 1, guidance=True)
        )
        _ = self._model.text_tower, self._model.decoder
        self._steps = steps
        self.about = {
            "pipeline": name,
            "sha256": opened_hash(self._model),
            "scheduler": self._model.decoder.family.default_sampler,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "num_inference_steps": steps,
        }

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: float
    ) -> list[Image.Image]:
        """By the scheduler of the decoder's family."""
        return self._model.draw(
            list(prompts),
            seeds=list(seeds),
            guidance_scale=guidance,
            num_inference_steps=self._steps,
            batch_size=len(prompts),
        ).images

    def reads_whole(self, prompt: str) -> bool:
        """Whether the text tower has as many positions."""
        return self._model.text_tower.reads_whole(prompt)


class PipelineDrawer(Drawer):
    """A pipeline of diffusers, with its own scheduler."""

    def __init__(
        self,
        name: str,
        steps: int,
        size: int | None,
        device: str | None,
        dtype: str | None,
        offload: bool,
    ) -> None:
        given, place = named_dtype(dtype), chosen_device(device)
        kind = given or (torch.bfloat16 if place.type == "cuda" else torch.float32)
        folder, self._pipeline = _load(name, kind)
        parameters = inspect.signature(self._pipeline.__call__).parameters
        lacking = {"prompt", "guidance_scale", "num_inference_steps"} - parameters.keys()
        if lacking or "image" in parameters:
            raise CheckpointError(
                f"{printable(name)} is a {type(self._pipeline).__name__}, which does not draw from "
                "a text alone; name a text-to-image pipeline"
            )
        if offload and place.type == "cuda":
            self._pipeline.enable_model_cpu_offload(device=place)
        else:
            self._pipeline.to(place)
        self._pipeline.set_progress_bar_config(disable=True)
        self._settings: dict[str, Any] = {"num_inference_steps": steps}
        if size is not None:
            self._settings |= {"height": size, "width": size}
        length = parameters.get("max_sequence_length")
        self._limits = _text_limits(self._pipeline, length.default if length else None)
        revision = snapshot_commit(folder)
        self.about = {
            "pipeline": name,
            "class": type(self._pipeline).__name__,
            "revision": revision,
            "sha256": folder_hash(folder) if revision is None else None,
            "scheduler": type(self._pipeline.scheduler).__name__,
            "dtype": str(kind).removeprefix("torch."),
            "size": size,
            "num_inference_steps": steps,
        }

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: float
    ) -> list[Image.Image]:
        """Noise comes from the CPU's generators, so that it is the same on every device."""
        try:
            found: list[Image.Image] = self._pipeline(
                prompt=list(prompts),
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                **self._settings,
            ).images
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{len(prompts)} pictures at a time do not fit into the memory; lower --batch-size "
                "or --size, or give --offload"
            ) from error
        except ValueError as error:  # such as a size that its latents do not divide
            reason = printable(str(error).strip().split("\n")[0])
            raise ConfigError(
                f"{type(self._pipeline).__name__} does not draw so: {reason}"
            ) from error
        return found

    def reads_whole(self, prompt: str) -> bool:
        """Whether one of the text encoders reads all of it."""
        return any(
            len(tokenizer(prompt, truncation=False, verbose=False)["input_ids"]) <= limit
            for tokenizer, limit in self._limits
        )


def _text_limits(pipeline: Any, longest: Any) -> list[tuple[Any, int]]:
    """The tokenizers of a pipeline, each with the tokens that its text encoder is given."""
    from transformers import CLIPTokenizer

    found = []
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4"):
        tokenizer = getattr(pipeline, name, None)
        if tokenizer is None:
            continue
        own = isinstance(tokenizer, CLIPTokenizer) or longest is None
        found.append((tokenizer, int(tokenizer.model_max_length if own else longest)))
    return found


def _load(name: str, dtype: torch.dtype) -> tuple[Path, Any]:
    with _quietly():
        from diffusers import AutoPipelineForText2Image, DiffusionPipeline

    local = Path(name).expanduser()
    try:
        with _quietly():
            folder = local if local.is_dir() else Path(DiffusionPipeline.download(name))
            _check_index(name, folder)
            pipeline = AutoPipelineForText2Image.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True
            )
    except CheckpointError:
        raise
    except Exception as error:  # whatever the Hub's library, diffusers or transformers raise
        reason = printable(str(error).strip().split("\n")[0])
        raise CheckpointError(
            f"the pipeline {printable(name)} cannot be opened ({reason}); check the name, log in "
            "with `hf auth login` where its licence must be accepted, or name a folder"
        ) from error
    return folder, pipeline


def _check_index(name: str, folder: Path) -> None:
    """Raise CheckpointError for what is no pipeline, or one that brings code."""
    if not (folder / _INDEX).is_file():
        raise CheckpointError(f"{printable(name)} is no pipeline of diffusers: it has no {_INDEX}")
    kind = read_object(folder / _INDEX, CheckpointError).get("_class_name")
    if not isinstance(kind, str):
        raise CheckpointError(
            f"{printable(name)} is a pipeline of its own code, which is not run; name one of "
            "diffusers' own classes"
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without bars, and without warnings of image processors that fall back where torchvision is
    not installed.
    """
    verbosity = logging.get_verbosity(), transformers_logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with no_progress_bar(), warnings.catch_warnings():
            # Its successor is unknown to older versions that are allowed.
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity[0])
        logging.enable_progress_bar()
        transformers_logging.set_verbosity(verbosity[1])
