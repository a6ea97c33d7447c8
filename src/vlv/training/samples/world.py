"""The scenes of the embedded world as samples: which scenes a run sees, and what each stage that
learns from the world alone sees of them. Stages 1 and 2 see them through `images`.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from vlv.data.world_images import WorldImages
from vlv.errors import ConfigError
from vlv.models.tokenizers import PromptTokens
from vlv.training.config import DataConfig, TrainingConfig, WorldDataConfig
from vlv.training.samples.data_order import generator, numpy_generator
from vlv.training.samples.draws import DrawSettings
from vlv.training.samples.inspector_targets import degrade, scene_targets
from vlv.training.samples.latents import LatentCache
from vlv.training.samples.source import Batch, SampleSource
from vlv.training.samples.tokens import CaptionTokens
from vlv.world.inspector import to_pixels
from vlv.world.language import counted_caption, long_caption, short_caption
from vlv.world.render import IMAGE_SIZE
from vlv.world.scene import Scene, sample_scene

VALIDATION_SEED = 1_000_000

SceneOf = Callable[[int], Scene]
"""The scene that a picture shows, by the picture's index."""


def world_data(config: TrainingConfig) -> WorldDataConfig:
    """The embedded world's part in a config, for what learns from the world alone."""
    if isinstance(config.data, WorldDataConfig):
        return config.data
    raise ConfigError("this stage learns from the embedded world: data.set is for stages 1 and 2")


def world_images(data: WorldDataConfig) -> WorldImages:
    """The scenes that `data` names."""
    return WorldImages(
        data.folder,
        data.count,
        split=data.split,
        first_seed=data.first_seed,
        workers=data.workers,
    )


def require_size_of_world(image_size: int) -> None:
    """Raise ConfigError for a model whose pictures have another side than the world's."""
    if image_size != IMAGE_SIZE:
        raise ConfigError(
            f"data names scenes of the embedded world, which are {IMAGE_SIZE} px, and the pictures "
            f"of this model are {image_size} px; name images with data.set"
        )


def scene_of(data: WorldDataConfig, index: int) -> Scene:
    """Scene `index` of those that `data` names."""
    return sample_scene(data.first_seed + index, data.split)


def scenes_of(data: DataConfig) -> SceneOf | None:
    """The scenes of the pictures of `data`, where it is of the embedded world."""
    return partial(scene_of, data) if isinstance(data, WorldDataConfig) else None


def validation_images(config: TrainingConfig) -> WorldImages:
    """Scenes of the `test` split, apart from those that `vlv eval` measures on."""
    data = world_data(config)
    return WorldImages(
        data.folder,
        config.validation_count,
        split="test",
        first_seed=VALIDATION_SEED,
        workers=data.workers,
    )


def caption_texts(count: int) -> list[str]:
    """Captions to learn a tokenizer from: short and long ones of training scenes."""
    texts = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        write = long_caption if seed % 4 == 0 else short_caption
        texts.append(write(sample_scene(seed, "train"), rng))
    return texts


def validation_texts(count: int) -> list[str]:
    """Short captions of the scenes that are held out."""
    rng = numpy_generator(0, 0, "validation")
    return [short_caption(sample_scene(VALIDATION_SEED + i, "test"), rng) for i in range(count)]


class PosteriorSamples(SampleSource):
    """For an image auto-encoder: pictures, and noise that picks their latents."""

    def __init__(self, images: WorldImages, latent_shape: tuple[int, int, int], seed: int) -> None:
        self._images = images
        self._latent_shape = latent_shape
        self._seed = seed

    def __len__(self) -> int:
        return len(self._images)

    def item(self, position: int, index: int) -> Batch:
        noise = torch.randn(self._latent_shape, generator=generator(self._seed, position, "vae"))
        return {"image": torch.from_numpy(self._images.images[index].copy()), "noise": noise}


class PromptedLatents(SampleSource):
    """For a text-to-image model: latents with noise, and ids of a caption; some captions are
    dropped, which leaves the ids of an empty text.
    """

    def __init__(
        self,
        images: WorldImages,
        latents: LatentCache,
        draws: DrawSettings,
        prompts: PromptTokens,
        *,
        counted_captions: float,
        caption_dropout: float,
    ) -> None:
        self._images = images
        self._latents = latents
        self._draws = draws
        self._prompts = prompts
        self._counted_captions = counted_captions
        self._caption_dropout = caption_dropout

    def __len__(self) -> int:
        return len(self._images)

    def item(self, position: int, index: int) -> Batch:
        seed = self._draws.seed
        words = numpy_generator(seed, position, "caption")
        scene = self._images.scene(index)
        # Drawn only where there are some, so that runs without them keep their captions.
        counted = len(scene.objects) > 1 and self._counted_captions > 0
        counted = counted and words.random() < self._counted_captions
        caption = (counted_caption if counted else short_caption)(scene, words)
        chance = torch.rand((), generator=generator(seed, position, "dropout"))
        dropped = float(chance) < self._caption_dropout
        item = self._latents.put_into(self._draws.at(position), index)
        ids = self._prompts(["" if dropped else caption])[0]
        return {**item, "input_ids": ids, "dropped": torch.tensor(dropped)}


class TextSamples(SampleSource):
    """For a language model: captions of scenes without pictures, `long_share` of them long."""

    def __init__(
        self, data: WorldDataConfig, tokens: CaptionTokens, seed: int, long_share: float
    ) -> None:
        self._data = data
        self._tokens = tokens
        self._seed = seed
        self._long_share = long_share

    def __len__(self) -> int:
        return self._data.count

    def item(self, position: int, index: int) -> Batch:
        rng = numpy_generator(self._seed, position, "text")
        write = long_caption if rng.random() < self._long_share else short_caption
        return self._tokens.item(write(scene_of(self._data, index), rng))


class InspectorSamples(SampleSource):
    """For the inspector: degraded pictures of several sets, and what is to be seen in them."""

    def __init__(self, sets: Sequence[WorldImages], seed: int) -> None:
        self._sets = sets
        self._ends = list(accumulate(len(images) for images in sets))
        self._seed = seed

    def __len__(self) -> int:
        return self._ends[-1]

    def item(self, position: int, index: int) -> Batch:
        images, at = self._locate(index)
        random = generator(self._seed, position, "degrade")
        return {
            "image": degrade(_picture(images, at), random),
            **scene_targets(images.scene(at)),
        }

    def _locate(self, index: int) -> tuple[WorldImages, int]:
        """The set that holds sample `index`, and the sample's place in it."""
        found = bisect_right(self._ends, index)
        images = self._sets[found]
        return images, index - (self._ends[found] - len(images))


def _picture(images: WorldImages, at: int) -> Tensor:
    """(3, H, W) in [-1, 1]."""
    return to_pixels(torch.from_numpy(images.images[at : at + 1].copy()))[0]
