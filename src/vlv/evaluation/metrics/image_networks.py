"""Networks that turn pictures into features: Inception for FID, models of transformers (CLIP, DINO
and others) for similarity and for Frechet distances on their features, and encoders of ours.

Weights are read from safetensors, or through PyTorch's restricted unpickler; no code that comes
with a model is run.

Shapes: n pictures, F features.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vlv.checkpoints.hub import resolve, snapshot_commit
from vlv.checkpoints.parts import MANIFEST_FILE
from vlv.checkpoints.quantization import no_progress_bar
from vlv.errors import CheckpointError
from vlv.evaluation.metrics.libraries import inception_class
from vlv.files import sha256_of
from vlv.models.preprocessing import square_crop
from vlv.text import printable

INCEPTION = "inception"
Features = NDArray[np.float32]
# Of the weights of FID's Inception: the address, and how its SHA-256 begins.
_INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
_INCEPTION_HASH = "6726825d"
_OTHERWISE = "name the file with --inception-weights, or name another network with --features"
_INCEPTION_WIDTH = 2048
# Pictures and originals are brought to this size before Inception enlarges them to 299 pixels.
INCEPTION_SIDE = 256


class ImageNetwork(ABC):
    """A network that is loaded. `about` says what it is, as JSON values."""

    about: dict[str, Any]

    @property
    def key(self) -> str:
        """Changes with whatever changes features."""
        text = repr(sorted(self.about.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @abstractmethod
    def features(self, pictures: Sequence[Image.Image]) -> Features:
        """Features (n, F) of a batch of pictures of any sizes."""


def open_network(
    name: str, device: str | None = None, inception_weights: Path | None = None
) -> ImageNetwork:
    """The network of a name: `inception`, a model folder of ours, or an id or folder of
    transformers.

    Raises:
        ConfigError: a package that it needs is not installed.
        CheckpointError: there is no such network, or it cannot be opened.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == INCEPTION:
        return Inception(place, inception_weights)
    folder = resolve(name)
    if (folder / MANIFEST_FILE).is_file():
        return OwnEncoder(name, place)
    return TransformersNetwork(name, folder, place)


class Inception(ImageNetwork):
    """The Inception of FID, as torch-fidelity has it: bilinear resizing to 299 pixels as in
    TensorFlow 1, and the 2,048 features before the last layer.
    """

    def __init__(self, device: str, weights: Path | None = None) -> None:
        kind = inception_class()
        file = weights or fetched_weights(_INCEPTION_URL, _INCEPTION_HASH, _OTHERWISE)
        # The class unpickles without restriction: what the restricted unpickler takes is harmless.
        try:
            torch.load(file, map_location="cpu", weights_only=True)
            network = kind(
                INCEPTION, [str(_INCEPTION_WIDTH)], feature_extractor_weights_path=str(file)
            )
        except (
            Exception
        ) as error:  # whatever an unpickler raises, or a dictionary that does not fit
            reason = printable(str(error).strip().split("\n")[0])
            raise CheckpointError(
                f"{printable(file)} holds no weights of FID's Inception ({reason})"
            ) from error
        self._network, self._device = network.to(device), device
        self.about = {"network": INCEPTION, "sha256": sha256_of(file), "side": INCEPTION_SIDE}

    @torch.inference_mode()
    def features(self, pictures: Sequence[Image.Image]) -> Features:
        """(n, 2048), of the middle square of each picture."""
        pixels = np.stack([np.asarray(square_crop(one, INCEPTION_SIDE)) for one in pictures])
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(self._device)
        (found,) = self._network(batch)
        return _array(found)


class TransformersNetwork(ImageNetwork):
    """An image model of transformers with its own image processor. Features are the projected ones
    of a CLIP or SigLIP, the first token (CLS) of a model of tokens such as DINOv2, or else the
    pooled output.
    """

    def __init__(self, name: str, folder: Path, device: str) -> None:
        from transformers import AutoImageProcessor, AutoModel

        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(
                folder, trust_remote_code=False
            )
            with no_progress_bar():
                model: Any = AutoModel.from_pretrained(
                    folder, use_safetensors=True, trust_remote_code=False
                )
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            reason = printable(str(error).strip().split("\n")[0])
            raise CheckpointError(f"{printable(name)} cannot be opened ({reason})") from error
        self._model = model.to(device).eval()
        self.about = {
            "network": name,
            "class": type(model).__name__,
            "revision": snapshot_commit(folder),
        }
        if self.about["revision"] is None:
            self.about["sha256"] = [sha256_of(file) for file in _weights_in(folder)]

    @torch.inference_mode()
    def features(self, pictures: Sequence[Image.Image]) -> Features:
        """(n, F), as the model's processor crops and resizes."""
        inputs = self._processor(images=list(pictures), return_tensors="pt")
        pixels = inputs["pixel_values"].to(self._model.device)
        if hasattr(self._model, "get_image_features"):
            found = self._model.get_image_features(pixel_values=pixels)
            found = found if isinstance(found, torch.Tensor) else found.pooler_output
        else:
            out = self._model(pixel_values=pixels)
            tokens = getattr(out, "last_hidden_state", None)
            if tokens is not None and tokens.ndim == 3:
                found = tokens[:, 0]
            else:
                found = out.pooler_output.flatten(1)
        return _array(found)


class OwnEncoder(ImageNetwork):
    """The encoder of a VLV model: the mean of an image's caption embeddings z."""

    def __init__(self, name: str, device: str) -> None:
        from vlv.checkpoints.opening import load_model

        self._model = load_model(name, device=torch.device(device))
        _ = self._model.encoder
        assert self._model.folder is not None  # it was opened from one
        weights = _weights_in(self._model.folder / "encoder")
        self.about = {"network": name, "sha256": [sha256_of(file) for file in weights]}
        if self._model.opened_from != self._model.folder:
            # A fine-tune has the encoder of its base, but may crop pictures otherwise.
            self.about["crop_size"] = self._model.encoder.settings.crop_size

    def features(self, pictures: Sequence[Image.Image]) -> Features:
        """(n, d), d the width of z."""
        with torch.inference_mode():
            return _array(self._model.encode(list(pictures)).mean(dim=1))


def cosine(a: Features, b: Features) -> NDArray[np.float64]:
    """The cosine similarity (n,) of features (n, F) each, row by row."""
    first, second = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    found: NDArray[np.float64] = (first * second).sum(1) / np.maximum(lengths, 1e-12)
    return found


def _array(features: torch.Tensor) -> Features:
    found: Features = features.float().cpu().numpy()
    return found


def _weights_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def fetched_weights(url: str, hash_start: str, otherwise: str) -> Path:
    """Published weights, fetched once into the cache of torch.hub and checked by how their SHA-256
    begins. otherwise: what to do where they cannot be fetched, for the message.

    Raises:
        CheckpointError: they cannot be fetched, or are others.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if file.is_file() and sha256_of(file).startswith(hash_start):
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_start, progress=False)
    except (OSError, RuntimeError) as error:
        reason = printable(str(error).strip().split("\n")[0])
        raise CheckpointError(
            f"weights could not be fetched ({reason}); fetch {url} yourself and {otherwise}"
        ) from error
    return file
