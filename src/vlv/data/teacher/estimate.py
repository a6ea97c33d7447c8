"""How much a teacher will have to do, before it is asked: by names, headers, and a few images.

Reading all images of a dataset to count them takes hours at millions. The limits of a run do not
depend on this: they are kept request by request.
"""

from dataclasses import dataclass
from pathlib import Path

from vlv.data.images import image_header
from vlv.data.items import count_items, origins, sampled_items
from vlv.data.lenient import Unusable
from vlv.data.teacher.captioning import image_hash, known_of
from vlv.endpoints.budget import image_tokens
from vlv.endpoints.ledger import Ledger
from vlv.errors import DatasetError, ImageError

# Images that are read. Of smaller datasets all are, and their number is exact.
SAMPLED = 200


@dataclass(frozen=True)
class Estimate:
    """images: all, by names and headers. left: those to ask for. sampled: those that were read.

    tokens: of one image, by the sizes of the sampled ones.
    """

    images: int
    left: int
    sampled: int
    tokens: float

    @property
    def exact(self) -> bool:
        """Whether all images were read, so that their number is no estimate."""
        return self.sampled == self.images


def estimate(source: Path, ledger: Ledger, max_side: int, leave_out: Path) -> Estimate:
    """What is left to do for the dataset at `source`.

    Raises:
        DatasetError: it holds no image.
    """
    inside = origins([source])
    total = count_items(inside, leave_out=leave_out)
    sampled = usable = known = 0
    tokens: list[float] = []
    for item in sampled_items(inside, SAMPLED, total, leave_out=leave_out):
        sampled += 1
        if isinstance(item.sample, Unusable):
            continue
        usable += 1
        known += known_of(ledger, item.name, image_hash(item.sample)) is not None
        try:
            _, width, height = image_header(item.sample.image)
        except ImageError:
            continue
        tokens.append(image_tokens(width, height, max_side))
    if not sampled:
        raise DatasetError("SRC holds no image")
    mean = sum(tokens) / len(tokens) if tokens else image_tokens(max_side, max_side, max_side)
    if total <= SAMPLED:
        return Estimate(sampled, usable - known, sampled, mean)
    left = round(total * usable / sampled) - ledger.images()
    return Estimate(total, max(0, left), sampled, mean)
