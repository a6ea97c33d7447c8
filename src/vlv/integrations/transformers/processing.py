"""What a VLV sees and reads, as transformers prepares it: `AutoProcessor` of a model folder.

Pictures become what the encoder sees. A text is the beginning of the caption: VLV follows no
instructions, and those of a chat are left out.

Shapes: B batch, S the encoder's image size, L tokens.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import load_image as fetch_image

from vlv.checkpoints.hub import DownloadOptions
from vlv.checkpoints.parts import PROCESSOR_FILE
from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.errors import ConfigError
from vlv.integrations.arguments import download_of, refuse_others
from vlv.models.config import EncoderSettings
from vlv.models.preprocessing import Images, as_list, encoder_pixels
from vlv.pixels import picture_of

# What a call of the image processor may change.
_STEPS = frozenset(
    {"do_normalize", "do_rescale", "do_resize", "image_mean", "image_std", "rescale_factor"}
)
# Arguments of a call that ask for what is done in any case; `pipeline` hands on the first.
_DONE: Mapping[str, tuple[Any, ...]] = {
    "local_files_only": (True, False),
    "add_special_tokens": (True,),
    "padding": (True, "longest", False),
    "padding_side": ("right",),
    "truncation": (False,),
}


class VLVImageProcessor(ImageProcessingMixin):
    """Pictures -> what the encoder sees."""

    model_input_names = ["pixel_values"]

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = EncoderSettings.model_validate(settings)

    def __call__(
        self,
        images: Images,
        return_tensors: str | None = "pt",
        *,
        do_resize: bool | None = True,
        do_rescale: bool | None = True,
        rescale_factor: float | None = None,
        do_normalize: bool | None = True,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        **others: Any,
    ) -> BatchFeature:
        """`pixel_values` (B,3,S,S) of one or many PIL images, as `VLVEncoder.preprocess` makes
        them, in float32.

        The arguments are those of transformers, where None is the model's own. Without do_resize
        nothing is cropped either, and images have to be SxS pixels.

        Raises ConfigError for images of another size without do_resize, and for arguments that
        would change what the encoder takes.
        """
        self.refuse(others)
        resized = do_resize is None or do_resize
        pixels = [self._pixels(one, resized=resized) for one in as_list(images)]
        values = torch.from_numpy(np.stack(pixels)).float()  # (B,S,S,3)
        if do_rescale is None or do_rescale:
            values = values / 255.0 if rescale_factor is None else values * rescale_factor
        if do_normalize is None or do_normalize:
            mean = self.settings.image_mean if image_mean is None else image_mean
            std = self.settings.image_std if image_std is None else image_std
            values = (values - torch.tensor(mean)) / torch.tensor(std)
        return BatchFeature(
            {"pixel_values": values.permute(0, 3, 1, 2).contiguous()}, tensor_type=return_tensors
        )

    preprocess = __call__

    def _pixels(self, image: Image.Image, *, resized: bool) -> NDArray[np.uint8]:
        """Bytes (S,S,3)."""
        side = self.settings.image_size
        if resized:
            return encoder_pixels(image, side, self.settings.crop_size)
        if image.size != (side, side):
            raise ConfigError(
                f"the encoder takes images of {side}x{side} pixels, not {image.width}x"
                f"{image.height}; leave out do_resize=False"
            )
        return np.array(picture_of(image))

    def refuse(self, others: Mapping[str, Any]) -> None:
        """Raise ConfigError for an argument that asks for something else than what is done."""
        side = self.settings.image_size
        done = {
            "data_format": "channels_first",
            "do_center_crop": self.settings.crop_size is not None,
            "do_convert_rgb": True,
            "resample": Image.Resampling.BICUBIC,
            "size": {"height": side, "width": side},
        }
        for name, value in others.items():
            # None and False ask for nothing, but for False where it is done.
            if value is not None and value != done.get(name, False):
                raise ConfigError(
                    f"the processor of a VLV cannot honour {name}={value!r}; leave it out"
                )

    def to_dict(self) -> dict[str, Any]:
        """The settings."""
        return self.settings.model_dump()


class VLVProcessor(ProcessorMixin):
    """Pictures and beginnings of captions -> what `VLVForConditionalGeneration` takes, and tokens
    -> captions.
    """

    def __init__(
        self, image_processor: VLVImageProcessor, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__(image_processor, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        revision: str | None = None,
        **others: Any,
    ) -> Self:
        """The processor of a model folder, an id of the package or of the Hub. `others` may hold
        `VLV.from_pretrained`'s token, cache_dir, local_files_only and force_download.

        Raises CheckpointError where there is none, and ConfigError for arguments that it cannot
        honour.
        """
        from vlv.checkpoints.processing import load_processing

        download = DownloadOptions(**download_of(others))
        for name in sorted(_STEPS & others.keys()):
            raise ConfigError(f"give {name} with each call, as in processor(images, {name}=...)")
        if "_from_pipeline" not in others:  # which hands on arguments of the model
            refuse_others(others)
        settings, tokenizer = load_processing(pretrained_model_name_or_path, revision, download)
        return cls(VLVImageProcessor(**settings.model_dump()), tokenizer)

    def save_pretrained(self, save_directory: str | Path, **others: Any) -> list[str]:
        """Write what `from_pretrained` reads, in the layout of a model folder; beside a model
        this changes nothing. Raises ConfigError for arguments that it cannot honour, push_to_hub
        among them: the model's uploads the processor too.
        """
        from vlv.checkpoints.processing import save_processing

        refuse_others(others)
        folder = Path(save_directory)
        save_processing(self.image_processor.settings, self.tokenizer, folder)
        content = {"processor_class": type(self).__name__}
        (folder / PROCESSOR_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")
        return [str(folder / PROCESSOR_FILE)]

    def __call__(
        self,
        images: Images | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        **others: Any,
    ) -> BatchFeature:
        """`pixel_values` (B,3,S,S) and `input_ids` (B,L) of the words that the captions begin
        with, each with its end token, padded on the right.

        text: one for each image, or one for all; None begins nothing. others: those of the image
        processor. Raises ConfigError for texts that are not as many as the images, and for
        arguments that cannot be honoured.
        """
        content: dict[str, Any] = {}
        count = 1
        steps = {k: v for k, v in others.items() if v not in _DONE.get(k, ())}
        if images is not None:
            content = dict(self.image_processor(images, return_tensors=return_tensors, **steps))
            count = len(content["pixel_values"])
        else:
            self.image_processor.refuse({k: v for k, v in steps.items() if k not in _STEPS})
        texts = [text or ""] * count if text is None or isinstance(text, str) else list(text)
        if images is not None and len(texts) != count:
            raise ConfigError(
                f"there are {len(texts)} texts for {count} images; give one beginning of a caption "
                "for each image"
            )
        content["input_ids"] = self._ids(texts)
        return BatchFeature(content, tensor_type=return_tensors)

    def _ids(self, texts: Sequence[str]) -> Tensor:
        from vlv.models.caption_tokens import caption_ids

        ids, _ = caption_ids(self.tokenizer, [text.strip() for text in texts], None)
        return ids

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = True,
        return_tensors: str | None = "pt",
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Any:
        """The last picture of a chat, or of each of several chats, and the words of a last message
        by the assistant, which the caption begins with. Other texts are instructions, and are left
        out. Without `tokenize`, those words. processor_kwargs, others: arguments of a call.

        Raises ConfigError for a chat without a picture.
        """
        is_one = isinstance(conversation[0], Mapping)
        chats = [conversation] if is_one else [getattr(x, "messages", x) for x in conversation]
        begun = [_beginning(chat) for chat in chats]
        if not tokenize:
            return begun[0] if is_one else begun
        steps = {**(processor_kwargs or {}), **others}
        made = self([_last_picture(chat) for chat in chats], begun, return_tensors, **steps)
        return made if return_dict else made["input_ids"]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **unused: Any
    ) -> list[str]:
        """Captions of rows of tokens, cleaned as `VLV.caption` cleans them: a caption that was cut
        off loses its unfinished sentence and what it repeats.
        """
        from vlv.inference.postprocess import Cleaning

        cleaning, end = Cleaning(), self.tokenizer.eos_token_id
        rows = [[int(one) for one in row] for row in generated_outputs]
        if not skip_special_tokens:
            return [str(self.tokenizer.decode(row)) for row in rows]
        return [
            cleaning.apply(self.tokenizer.decode(row, skip_special_tokens=True), end in row)
            for row in (_up_to(row, end) for row in rows)
        ]


def _up_to(row: list[int], end: int) -> list[int]:
    """A row up to and with its end token: padding may be another token."""
    return row[: row.index(end) + 1] if end in row else row


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content") or []
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _beginning(chat: Sequence[Mapping[str, Any]]) -> str:
    last = chat[-1]
    if last["role"] != "assistant":
        return ""
    return " ".join(part["text"] for part in _parts(last) if part.get("type") == "text").strip()


def _last_picture(chat: Sequence[Mapping[str, Any]]) -> Image.Image:
    for message in reversed(chat):
        for part in reversed(_parts(message)):
            if part.get("type") == "image":
                for name in ("image", "url", "path", "base64"):
                    if part.get(name) is not None:
                        return _picture(part[name])
    raise ConfigError(
        'the chat has no picture; add {"type": "image", "image": ...} to the content of a message'
    )


def _picture(source: Any) -> Image.Image:
    """A picture of a chat. The library would make transparent parts black, and deep gray white."""
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, str | os.PathLike) and os.path.isfile(source):
        return load_image(source, max_pixels=MAX_OWN_PIXELS)
    fetched: Image.Image = fetch_image(source)
    return fetched
