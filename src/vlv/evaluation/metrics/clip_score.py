"""CLIPScore of captions: 2.5 max(cos, 0) of a picture and its caption under a CLIP (Hessel et al.,
2021). The CLIP is any folder or id of transformers; published values are of ViT-B/32.

Shapes: n pictures and captions, d the CLIP's common width.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlv.checkpoints.hub import resolve, snapshot_commit
from vlv.checkpoints.quantization import no_progress_bar
from vlv.errors import CheckpointError
from vlv.evaluation.metrics.statistics import Array
from vlv.text import printable

_WEIGHT = 2.5
# The paper's captions begin with it.
_PROMPT = "A photo depicts "


class CLIPScore:
    """A CLIP that is loaded. Captions are cut at its text length (77 tokens in OpenAI's)."""

    def __init__(self, name: str, device: str | None = None) -> None:
        from transformers import AutoModel, AutoProcessor

        folder = resolve(name)
        try:
            processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            with no_progress_bar():
                model: Any = AutoModel.from_pretrained(
                    folder, use_safetensors=True, trust_remote_code=False
                )
        except (OSError, ValueError, ImportError) as error:
            reason = printable(str(error).strip().split("\n")[0])
            raise CheckpointError(f"{printable(name)} cannot be opened ({reason})") from error
        if not hasattr(model, "get_text_features"):
            raise CheckpointError(f"{printable(name)} is no CLIP; name one, such as a ViT-B/32")
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model, self._processor = model.to(place).eval(), processor
        self._length = int(model.config.text_config.max_position_embeddings)
        # A SigLIP reads its padding, and was trained with texts of one length.
        kind = str(model.config.model_type)
        self._padding = "max_length" if kind.startswith("siglip") else True
        self.about = {"clip": name, "revision": snapshot_commit(folder)}

    @torch.inference_mode()
    def pictures(self, pictures: Iterable[Image.Image], batch_size: int = 32) -> Array:
        """Unit vectors (n,d). Pictures are taken a batch at a time."""
        left, found = iter(pictures), []
        while some := list(islice(left, batch_size)):
            inputs = self._processor(images=some, return_tensors="pt").to(self._model.device)
            found.append(_units(self._model.get_image_features(**inputs)))
        return np.concatenate(found)

    @torch.inference_mode()
    def captions(self, captions: Sequence[str], batch_size: int = 64) -> Array:
        """Unit vectors (n,d)."""
        found = []
        for start in range(0, len(captions), batch_size):
            inputs = self._processor(
                text=[_PROMPT + text for text in captions[start : start + batch_size]],
                padding=self._padding,
                truncation=True,
                max_length=self._length,
                return_tensors="pt",
            ).to(self._model.device)
            found.append(_units(self._model.get_text_features(**inputs)))
        return np.concatenate(found)


def clip_scores(pictures: Array, captions: Array) -> Array:
    """The score of each pair (n,), of unit vectors (n,d) each."""
    scores: Array = _WEIGHT * np.clip((pictures * captions).sum(1), 0, None)
    return scores


def _units(features: Any) -> Array:
    """Features of a batch, which newer models return inside an output, with length 1."""
    values = features if isinstance(features, torch.Tensor) else features.pooler_output
    found: Array = torch.nn.functional.normalize(values.double(), dim=-1).cpu().numpy()
    return found
