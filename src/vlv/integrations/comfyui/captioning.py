"""Nodes that write captions and check them."""

import json
from dataclasses import asdict
from pathlib import Path

from comfy_api.latest import io
from torch import Tensor

from vlv.errors import ConfigError
from vlv.inference.caption_files import Sidecars
from vlv.inference.captioning import CaptionSettings, caption_images
from vlv.inference.encoding import default_batch_size
from vlv.inference.inputs import find_images, shared_stems
from vlv.inference.records import ImageInput, Refused
from vlv.inference.written import Replace
from vlv.integrations.comfyui.model import CATEGORY, Model, pictures_of
from vlv.pipeline import VLV
from vlv.text import begun_with


def _generation() -> list[io.Input]:
    return [
        io.Int.Input("num_beams", default=4, min=1, max=32),
        io.Int.Input("max_new_tokens", default=300, min=1, max=4096),
        io.Float.Input(
            "temperature", default=0.0, min=0.0, max=2.0, step=0.05, tooltip="0 searches with beams"
        ),
        io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=True),
        io.String.Input("trigger", default="", tooltip="A word that captions begin with."),
    ]


def _settings(
    num_beams: int, max_new_tokens: int, temperature: float, seed: int
) -> CaptionSettings:
    beams = None if temperature > 0 else num_beams
    return CaptionSettings(
        num_beams=beams, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )


class CaptionImages(io.ComfyNode):
    """A caption for each image of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="VLVCaption",
            display_name="VLV caption",
            category=CATEGORY,
            inputs=[Model.Input("model"), io.Image.Input("image"), *_generation()],
            outputs=[io.String.Output(display_name="captions", is_output_list=True)],
        )

    @classmethod
    def execute(
        cls,
        model: VLV,
        image: Tensor,
        num_beams: int = 4,
        max_new_tokens: int = 300,
        temperature: float = 0.0,
        seed: int = 0,
        trigger: str = "",
    ) -> io.NodeOutput:
        """Captions as a list, "" for an image of which the model writes nothing."""
        inputs = [ImageInput(f"image {at}", one) for at, one in enumerate(pictures_of(image))]
        settings = _settings(num_beams, max_new_tokens, temperature, seed)
        results = caption_images(model, inputs, settings, batch_size=default_batch_size(model))
        captions = ["" if isinstance(one, Refused) else one.caption for one in results]
        return io.NodeOutput([begun_with(trigger.strip(), one) if one else "" for one in captions])


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
                *_generation(),
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
        num_beams: int = 4,
        max_new_tokens: int = 300,
        temperature: float = 0.0,
        seed: int = 0,
        trigger: str = "",
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
        settings = _settings(num_beams, max_new_tokens, temperature, seed)
        written, failed = 0, list(found.refused)
        for one in caption_images(model, waiting, settings, batch_size=default_batch_size(model)):
            if isinstance(one, Refused):
                failed.append(one)
            elif store.put(one.image.path, begun_with(trigger.strip(), one.caption)):
                written += 1
        store.close()
        left = len(found.images) - written - len(failed)
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
        marks = model.verify(picture, caption, false_alarm_rate=false_alarm_rate)
        kept = " ".join(one.text for one in marks if one.supported is not False)
        wrong = sum(one.supported is False for one in marks)
        return io.NodeOutput(kept, wrong, json.dumps([asdict(one) for one in marks]))
