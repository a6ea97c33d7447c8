"""`vlv eval ood`: how well the detector finds out-of-distribution pictures.

Held-out scenes should pass without a warning, and anything else should be flagged. Scenes that are
inverted, turned or recoloured are neither, and are reported separately.
"""

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from vlv.errors import ConfigError
from vlv.evaluation.bench import held_out_scenes
from vlv.evaluation.metrics.pictures import ImageArray
from vlv.evaluation.metrics.statistics import Bootstrap, Figure, mean_of
from vlv.evaluation.ood_pictures import other_pictures
from vlv.evaluation.results import (
    Claim,
    Progress,
    Result,
    Row,
    environment,
    folder_hash,
    opened_hash,
    silent,
)
from vlv.inference.loading import open_model
from vlv.models.ood import picture_features
from vlv.models.vlv import VLVModel

# The share of scenes that should pass, and of other pictures that should be flagged.
WANTED = 0.95
SCENES, OTHERS = "all held-out scenes", "all other pictures"
CHANGES: dict[str, Callable[[ImageArray], ImageArray]] = {
    "inverted": lambda images: 255 - images,
    "turned by 90°": lambda images: np.rot90(images, 1, (1, 2)),
    "turned by 180°": lambda images: np.rot90(images, 2, (1, 2)),
    "mirrored": lambda images: images[:, :, ::-1],
    "red and blue exchanged": lambda images: images[..., ::-1],
}


class OODConfig(BaseModel):
    """model: id or folder. count: held-out scenes, a fifth of them with held-out pairs, a fifth
    with held-out counts. seed: of the scenes.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "vlv-mini"
    count: int = Field(1000, ge=10)
    seed: int = Field(0, ge=0)
    device: str | None = None
    num_threads: int | None = Field(None, ge=1)


def evaluate(config: OODConfig, progress: Progress = silent) -> Result:
    """The share of pictures that is flagged as out of distribution, by kind.

    Raises:
        CheckpointError: the model cannot be opened.
        ConfigError: the model has no OOD detector, or scikit-image is missing.
    """
    start = time.perf_counter()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    model = open_model(config.model, device=config.device)
    detector = model.ood_detector
    if detector is None or model.folder is None:
        raise ConfigError(f"{config.model} has no OOD detector; fit one with `vlv ood-detector`")
    fifth = config.count // 5
    counts = {"test": config.count - 2 * fifth, "unseen-pairs": fifth, "unseen-counts": fifth}
    scenes = {
        split: held_out_scenes(count, seed=config.seed, split=split, progress=progress).renders
        for split, count in counts.items()
    }
    others = other_pictures()
    of_scenes = {
        f"held-out scenes, {split}": _flagged(model, map(Image.fromarray, images))
        for split, images in scenes.items()
    }
    of_others = {kind: _flagged(model, named.values()) for kind, named in others.items()}
    of_changed = {
        f"scenes, {name}": _flagged(model, map(Image.fromarray, change(scenes["test"])))
        for name, change in CHANGES.items()
    }
    all_scenes, all_others = _joined(of_scenes), _joined(of_others)
    flagged = {**of_scenes, SCENES: all_scenes, **of_others, OTHERS: all_others, **of_changed}
    missed = [
        f"{kind}: {name}"
        for kind, named in others.items()
        for name, hit in zip(named, of_others[kind], strict=True)
        if not hit
    ]
    return Result(
        name="ood",
        title="Pictures flagged as unlike those that the model was trained on",
        paper="none: a check of this project's own",
        rows=[
            Row({"pictures": name}, len(one), {"flagged": _share(one, config.seed)})
            for name, one in flagged.items()
        ],
        claims=[
            _claim("Held-out scenes pass without a warning.", 1 - all_scenes, config.seed),
            _claim("Other pictures are flagged.", all_others, config.seed),
        ],
        notes=[
            f"Flagged beyond the distance that {detector.settings.quantile:.1%} of training scenes "
            f"keep; fitted on {detector.settings.count} of them. How the distance is measured was "
            "chosen with the same photographs, and with drawings like these.",
            f"Other pictures that pass: {', '.join(missed) or 'none'}.",
        ],
        provenance={
            "evaluation": "ood",
            "config": config.model_dump(mode="json"),
            "environment": environment(),
            "device": str(model.device),
            "model_sha256": opened_hash(model),
            "ood_detector_sha256": folder_hash(model.folder, ["ood_detector"]),
            "seconds": round(time.perf_counter() - start, 1),
        },
    )


def _flagged(model: VLVModel, pictures: Iterable[Image.Image]) -> np.ndarray:
    """1.0 for each picture that is flagged, 0.0 for the others: (n,)."""
    detector = model.ood_detector
    assert detector is not None  # checked at the beginning
    distances = detector.distance(picture_features(model.encoder, pictures))
    flags: np.ndarray = (distances > detector.settings.threshold).double().numpy()
    return flags


def _joined(kinds: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(kinds.values()))


def _share(flags: np.ndarray, seed: int) -> Figure:
    return Bootstrap(len(flags), seed).share(mean_of(flags))


def _claim(statement: str, right: np.ndarray, seed: int) -> Claim:
    share = _share(right, seed)
    least = Figure(share.value - WANTED, share.low - WANTED, share.high - WANTED)
    return Claim(statement, "not in the paper", f"share of pictures, minus {WANTED}", least)
