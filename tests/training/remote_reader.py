"""A process that reads its share of a set as training does, and goes on where it was.

    python -m tests.training.remote_reader SET INDEX_FOLDER OUT RANK RANKS WORKERS BATCH STEPS

Each step appends a line to OUT: the keys of the samples that were read. The lines that are there
already are the steps that are done.
"""

import os
import sys
from pathlib import Path

from torch.utils.data import DataLoader

from vlv.data.image_sets import ImageSet, open_image_set
from vlv.training.samples.data_order import PositionSampler
from vlv.training.samples.shard_order import Shards
from vlv.training.samples.source import Batch, PositionDataset, SampleSource

STREAMS, BUFFER, SEED = 6, 27, 11


class Keys(SampleSource):
    """The keys of the samples of a set, each read from its shard."""

    def __init__(self, images: ImageSet) -> None:
        assert images.shard_sizes is not None
        self.images = images
        sizes = images.shard_sizes.tolist()
        self.shards = Shards(tuple(sizes), STREAMS, BUFFER, images.is_remote)

    def __len__(self) -> int:
        return len(self.images)

    def fetch_ahead(self, index: int) -> None:
        self.images.fetch_ahead(index)

    def item(self, position: int, index: int) -> Batch:
        return {"key": int(self.images[index].key)}


def main(place: str, folder: str, out: str, *numbers: str) -> None:
    rank, ranks, workers, batch, steps = map(int, numbers)
    images = open_image_set(Path(place), index_folder=Path(folder))
    path = Path(out)
    done = path.read_bytes().count(b"\n") if path.exists() else 0
    if path.exists():  # a line that a kill has cut
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    loader = DataLoader(
        PositionDataset(Keys(images), SEED, 3),
        batch_sampler=PositionSampler(
            batch_size=batch,
            micro_batches=1,
            first_step=done,
            last_step=steps,
            rank=rank,
            world_size=ranks,
        ),
        num_workers=workers,
    )
    with path.open("a") as lines:
        for found in loader:
            lines.write(" ".join(str(int(key)) for key in found["key"]) + "\n")
            lines.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
