"""The pictures of a report: the first held-out scenes, and what a model makes of them."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vlv.evaluation.bench import Bench, TableConfig
from vlv.evaluation.metrics.pictures import ImageArray
from vlv.evaluation.results import Progress
from vlv.files import atomic_file
from vlv.inference.grid import Row, enlarged, picture_grid

COUNT = 6
GUIDANCE_SCALE = 2.0
_ENLARGED = 3


@dataclass(frozen=True)
class Scenes:
    """The captions of the scenes that the picture shows: true ones and the model's own."""

    true_captions: list[str]
    captions: list[str]


def draw_scenes(config: TableConfig, path: Path, progress: Progress) -> Scenes:
    """Write one picture with a column for each scene: the original, the picture drawn from its
    caption embeddings, and the picture drawn from the model's own caption.

    Raises:
        CheckpointError, ConfigError: as `Bench`.
    """
    bench = Bench(config, progress)
    model, originals, captions = bench.model, _images(bench.data.renders), bench.captions
    drawn = {
        "embeddings": model.condition(bench.z),
        "captions": model.text_tower.encode_text(captions),
    }
    pictures = {
        name: _images(bench.image_sampler.draw(c, GUIDANCE_SCALE, name))
        for name, c in drawn.items()
    }
    grid = picture_grid(
        [
            Row("original", originals),
            Row("reconstruction\nfrom embeddings", pictures["embeddings"]),
            Row("picture drawn\nfrom own caption", pictures["captions"]),
        ],
        cell=enlarged(originals[0].size, _ENLARGED * originals[0].width),
        column_labels=[str(number) for number in range(1, len(originals) + 1)],
        column_texts=captions,
        texts_label="own caption",
    )
    with atomic_file(path) as unfinished:
        grid.save(unfinished, "PNG")
    return Scenes(bench.data.captions, captions)


def _images(pictures: ImageArray) -> list[Image.Image]:
    return [Image.fromarray(one) for one in pictures]
