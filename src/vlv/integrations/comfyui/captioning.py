"""Nodes that write captions and check them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch import Tensor

from vlv.data.folder import shared_stems
from vlv.errors import ConfigError
from vlv.inference.caption_files import Sidecars
from vlv.inference.captioning import CaptionSettings, caption_images
from vlv.inference.encoding import default_batch_size
from vlv.inference.inputs import find_images
from vlv.inference.records import Captioned, ImageInput, Refused
from vlv.inference.written import Replace
from vlv.integrations.comfyui.model import CATEGORY, Model, pictures_of
from vlv.integrations.comfyui.running import cancellable
from vlv.pipeline import VLV
from vlv.text import begun_with


@dataclass(frozen=True)
class _Generation:
    """The inputs of both nodes that write captions, with their defaults."""

    num_beams: int = 4
    max_new_tokens: int = 300
    temperature: float = 0.0
    seed: int = 0
    trigger: str = ""

    @classmethod
    def inputs(cls) -> list[io.Input]:
        """Their declaration."""
        return [
            io.Int.Input("num_beams", default=cls.num_beams, min=1, max=32),
            io.Int.Input("max_new_tokens", default=cls.max_new_tokens, min=1, max=4096),
            io.Float.Input(
                "temperature",
                default=cls.temperature,
                min=0.0,
                max=2.0,
                step=0.05,
                tooltip="0 searches with beams",
            ),
            io.Int.Input("seed", default=cls.seed, min=0, max=2**53, control_after_generate=True),
            io.String.Input(
                "trigger", default=cls.trigger, tooltip="A word that captions begin with."
            ),
        ]

    def captioned(self, model: VLV, images: Iterable[ImageInput]) -> Iterator[Captioned | Refused]:
        """A result for each image; ComfyUI's Cancel ends it."""
        settings = CaptionSettings(
            num_beams=None if self.temperature > 0 else self.num_beams,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
        batch_size = default_batch_size(model)
        with cancellable(model.caption_decoder.lm.base_model):
            yield from caption_images(model, images, settings, batch_size=batch_size)

    def text(self, one: Captioned) -> str:
        """The caption, with the trigger before it."""
        return begun_with(self.trigger, one.caption)


class CaptionImages(io.ComfyNode):
    """A caption for each image of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="VLVCaption",
            display_name="VLV caption",
            category=CATEGORY,
            inputs=[Model.Input("model"), io.Image.Input("image"), *_Generation.inputs()],
            outputs=[io.String.Output(display_name="captions", is_output_list=True)],
        )

    @classmethod
    def execute(cls, model: VLV, image: Tensor, **generation: Any) -> io.NodeOutput:
        """Captions as a list, "" for an image of which the model writes nothing."""
        inputs = [ImageInput(f"image {at}", one) for at, one in enumerate(pictures_of(image))]
        wanted = _Generation(**generation)
        results = wanted.captioned(model, inputs)
        return io.NodeOutput(
            ["" if isinstance(one, Refused) else wanted.text(one) for one in results]
        )


class CaptionFolder(io.ComfyNode):
    """Caption files beside the images of a folder, as trainers read them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="VLVCaptionFolder",
            display_name="VLV caption folder",
            category=CATEGORY,
            is_output_node=True,
            not_idempotent=True,  # the folder may have changed
            inputs=[
                Model.Input("model"),
                io.String.Input("folder", default=""),
                io.String.Input("extension", default=".txt"),
                io.Boolean.Input("subfolders", default=False),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace captions that vlv wrote; edited ones stay.",
                ),
                *_Generation.inputs(),
            ],
            outputs=[io.String.Output(display_name="report")],
        )

    @classmethod
    def execute(
        cls,
        model: VLV,
        folder: str,
        extension: str = ".txt",
        subfolders: bool = False,
        overwrite: bool = False,
        **generation: Any,
    ) -> io.NodeOutput:
        """Write the captions that are missing; the report counts them and names what failed."""
        place = Path(folder).expanduser()
        if not place.is_dir():
            raise ConfigError(f"{place} is no folder; name one with images")
        found = find_images([place], recursive=subfolders)
        store = Sidecars(extension, Replace.OURS if overwrite else Replace.NONE)
        second = {one for several in shared_stems(found.images).values() for one in several[1:]}
        images = [one for one in found.images if one not in second]
        waiting = [ImageInput.of_file(one) for one in images if not store.keeps(one)]
        written, failed = 0, list(found.refused)
        bar, wanted = ProgressBar(len(waiting)), _Generation(**generation)
        try:
            for one in wanted.captioned(model, waiting):
                bar.update(1)
                if isinstance(one, Refused):
                    failed.append(one)
                    continue
                try:
                    written += store.put(one.image.path, wanted.text(one))
                except OSError as error:
                    message = f"the caption of {one.name} cannot be written ({error})"
                    failed.append(Refused(one.name, "unwritable", message))
        finally:
            store.close()
        # What was refused in the search is no image that was found.
        left = len(found.images) - written - (len(failed) - len(found.refused))
        lines = [
            f"{written} captions written, {left} images left as they are, {len(failed)} failed"
        ]
        return io.NodeOutput("\n".join([*lines, *(one.message for one in failed)]))


class VerifyCaption(io.ComfyNode):
    """Which sentences of a caption an image supports."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="VLVVerify",
            display_name="VLV verify",
            category=CATEGORY,
            inputs=[
                Model.Input("model"),
                io.Image.Input("image"),
                io.String.Input("caption", multiline=True, default=""),
                io.Float.Input("false_alarm_rate", default=0.05, min=0.0, max=1.0, step=0.01),
            ],
            outputs=[
                io.String.Output("supported_text", display_name="without unsupported sentences"),
                io.Int.Output("unsupported", display_name="unsupported sentences"),
                io.String.Output("marks", display_name="marks (JSON)"),
            ],
        )

    @classmethod
    def execute(
        cls, model: VLV, image: Tensor, caption: str, false_alarm_rate: float = 0.05
    ) -> io.NodeOutput:
        """Check the caption of the first image."""
        (picture, *_) = pictures_of(image)
        with cancellable(model.decoder.denoiser):
            marks = model.verify(picture, caption, false_alarm_rate=false_alarm_rate)
        kept = " ".join(one.text for one in marks if one.supported is not False)
        wrong = sum(one.supported is False for one in marks)
        return io.NodeOutput(kept, wrong, json.dumps([one.record() for one in marks]))
