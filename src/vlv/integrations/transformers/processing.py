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
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import load_image as fetch_image

from vlv.checkpoints.parts import PROCESSOR_FILE
from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.errors import ConfigError
from vlv.models.config import EncoderSettings
from vlv.models.preprocessing import Images, as_list, encoder_pixels


class VLVImageProcessor(ImageProcessingMixin):
    """Pictures -> what the encoder sees."""

    model_input_names = ["pixel_values"]

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = EncoderSettings.model_validate(settings)

    def __call__(
        self, images: Images, return_tensors: str | None = "pt", **unused: Any
    ) -> BatchFeature:
        """`pixel_values` (B,3,S,S) of one or many PIL images, as `VLVEncoder.preprocess` makes
        them, in float32.
        """
        size, crop = self.settings.image_size, self.settings.crop_size
        pixels = np.stack([encoder_pixels(one, size, crop) for one in as_list(images)])
        mean, std = torch.tensor(self.settings.image_mean), torch.tensor(self.settings.image_std)
        values = (torch.from_numpy(pixels).float() / 255.0 - mean) / std  # (B,S,S,3)
        return BatchFeature(
            {"pixel_values": values.permute(0, 3, 1, 2).contiguous()}, tensor_type=return_tensors
        )

    preprocess = __call__

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
        **unused: Any,
    ) -> Self:
        """The processor of a model folder, an id of the package or of the Hub.

        Raises CheckpointError where there is none.
        """
        from vlv.checkpoints.processing import load_processing

        settings, tokenizer = load_processing(pretrained_model_name_or_path, revision)
        return cls(VLVImageProcessor(**settings.model_dump()), tokenizer)

    def save_pretrained(self, save_directory: str | Path, **unused: Any) -> list[str]:
        """Write what `from_pretrained` reads, in the layout of a model folder; beside a model
        this changes nothing.
        """
        from vlv.checkpoints.processing import save_processing

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
        **unused: Any,
    ) -> BatchFeature:
        """`pixel_values` (B,3,S,S) and `input_ids` (B,L) of the words that the captions begin
        with, each with its end token, padded on the right.

        text: one for each image, or one for all; None begins nothing. Raises ConfigError for
        texts that are not as many as the images.
        """
        content: dict[str, Any] = {}
        count = 1
        if images is not None:
            content = dict(self.image_processor(images, return_tensors=return_tensors))
            count = len(content["pixel_values"])
        texts = [text or ""] * count if text is None or isinstance(text, str) else list(text)
        if images is not None and len(texts) != count:
            raise ConfigError(
                f"there are {len(texts)} texts for {count} images; give one beginning of a caption "
                "for each image"
            )
        content["input_ids"] = self._ids(texts)
        return BatchFeature(content, tensor_type=return_tensors)

    def _ids(self, texts: Sequence[str]) -> Tensor:
        from vlv.models.tokenizers import caption_ids

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
        **unused: Any,
    ) -> Any:
        """The last picture of a chat, or of each of several chats, and the words of a last message
        by the assistant, which the caption begins with. Other texts are instructions, and are left
        out. Without `tokenize`, those words.

        Raises ConfigError for a chat without a picture.
        """
        is_one = isinstance(conversation[0], Mapping)
        chats = [conversation] if is_one else [getattr(x, "messages", x) for x in conversation]
        begun = [_beginning(chat) for chat in chats]
        if not tokenize:
            return begun[0] if is_one else begun
        made = self([_last_picture(chat) for chat in chats], begun, return_tensors)
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
