"""A VLV model in lmms-eval: `python -m lmms_eval --model vlv --model_args pretrained=FOLDER`.

lmms-eval finds `manifest` by the entry point `vlv` of the group `lmms_eval.models`. A VLV model
follows no instruction: it captions the image and ignores the task's text, so only tasks that ask
for a caption make sense.
"""

from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from loguru import logger  # the log that lmms-eval writes
from PIL import Image

from vlv.errors import ConfigError
from vlv.inference.captioning import CaptionSettings, caption_images
from vlv.inference.loading import open_model
from vlv.inference.records import Captioned, ImageInput, Refused
from vlv.text import printable


def manifest() -> ModelManifest:
    """What lmms-eval registers."""
    return ModelManifest(model_id="vlv", simple_class_path=f"{__name__}.VLV")


class VLV(lmms):
    """Captions of images by a VLV model. Arguments come from `--model_args`."""

    is_simple = True

    def __init__(
        self,
        pretrained: str = "vlv-mini",
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str = 1,
        num_beams: int = 4,
        max_new_tokens: int = 300,
        **other: Any,
    ) -> None:
        super().__init__()
        # What lmms-eval gives to every model.
        unknown = sorted(other.keys() - {"max_batch_size"})
        if unknown:
            raise ConfigError(f"the model vlv has no argument {unknown[0]}; leave it out")
        self._model = open_model(pretrained, revision=revision, device=device, dtype=dtype)
        self._settings = CaptionSettings(
            num_beams=int(num_beams), max_new_tokens=int(max_new_tokens)
        )
        self._batch_size = int(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A caption of the first image of each request; empty, with a warning, where there is none.

        lmms-eval keeps no empty answer in its cache, so a later run asks for it again. The length
        and the beams are those of `--model_args`, not the task's.
        """
        images = map(self._image, requests)
        results = caption_images(self._model, images, self._settings, batch_size=self._batch_size)
        return [_answer(one) for one in results]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not available: a VLV model gives no answer a likelihood after a question."""
        raise NotImplementedError("a VLV model captions images and answers no questions")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not available: a VLV model holds no conversation."""
        raise NotImplementedError("a VLV model captions images and holds no conversation")

    def _image(self, request: Instance) -> ImageInput | Refused:
        _, _, doc_to_visual, doc_id, task, split = request.args
        name = f"document {doc_id} of the task {task}"
        try:
            visuals = doc_to_visual(self.task_dict[task][split][doc_id])
        except MemoryError:
            raise
        # Data sets and tasks decode images here, and decoders raise any error on damaged bytes.
        except Exception as error:
            return Refused(name, "corrupt", f"its image cannot be read ({error!r})")
        if not visuals:
            return Refused(name, "no-image", "it has no image")
        first = visuals[0]
        if isinstance(first, str):
            return ImageInput(name, Path(first))
        if isinstance(first, Image.Image):
            return ImageInput(name, first)
        return Refused(name, "no-image", f"its first visual, a {type(first).__name__}, is no image")


def _answer(result: Captioned | Refused) -> str:
    if isinstance(result, Captioned):
        return result.caption
    logger.warning(f"an empty caption for {result.name}: {printable(result.message)}")
    return ""
