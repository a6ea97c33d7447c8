"""A VLV model in lmms-eval: `python -m lmms_eval --model vlv --model_args pretrained=FOLDER`.

lmms-eval finds `manifest` by the entry point `vlv` of the group `lmms_eval.models`. A VLV model
follows no instruction: it captions the image and ignores the task's text, so only tasks that ask
for a caption make sense.
"""

from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from vlv.errors import ConfigError
from vlv.inference.captioning import CaptionSettings, caption_images
from vlv.inference.loading import open_model
from vlv.inference.records import ImageInput, Refused
from vlv.pixels import picture_of


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
        """A caption of the first image of each request; empty where there is none.

        The length and the beams are those of `--model_args`, not the task's.
        """
        images = [
            ImageInput(f"request {at + 1}", self._picture(one)) for at, one in enumerate(requests)
        ]
        results = caption_images(self._model, images, self._settings, batch_size=self._batch_size)
        return ["" if isinstance(one, Refused) else one.caption for one in results]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not available: a VLV model gives no answer a likelihood after a question."""
        raise NotImplementedError("a VLV model captions images and answers no questions")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not available: a VLV model holds no conversation."""
        raise NotImplementedError("a VLV model captions images and holds no conversation")

    def _picture(self, request: Instance) -> Image.Image:
        _, _, doc_to_visual, doc_id, task, split = request.args
        (first, *_) = doc_to_visual(self.task_dict[task][split][doc_id])
        return picture_of(first)
