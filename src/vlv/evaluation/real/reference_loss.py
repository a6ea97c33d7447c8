"""The loss of an image's reference captions under a model of ours, image by image, kept in a file.

Shapes: Q, d length and width of what the caption decoder reads.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from vlv.evaluation.metrics.statistics import Ratio
from vlv.evaluation.real.captions_file import IMAGE_HASH, AppendedLines
from vlv.evaluation.real.pairs import Pairs
from vlv.models.vlv import VLVModel


def reference_loss(
    model: VLVModel, pairs: Pairs, file: AppendedLines, watch: Callable[..., Iterator[Any]]
) -> Ratio:
    """Nats of all references of each image over their tokens, the end token among them.

    Images that the file has are not computed again, unless they or their references changed.
    """
    missing = [
        at
        for at, (name, image) in enumerate(zip(pairs.names, pairs.hashes, strict=True))
        if (file.known(name, image) or {}).get("references") != pairs.references[at]
    ]
    for at in watch(missing, total=len(missing), unit="image", description="loss"):
        nats, tokens = _loss(model, pairs, at)
        record = {"file_name": pairs.names[at], IMAGE_HASH: pairs.hashes[at]}
        file.add([{**record, "references": pairs.references[at], "nats": nats, "tokens": tokens}])
    records = [file.records[name] for name in pairs.names]
    return Ratio(
        np.array([one["nats"] for one in records], dtype=np.float64),
        np.array([one["tokens"] for one in records], dtype=np.float64),
    )


@torch.no_grad()
def _loss(model: VLVModel, pairs: Pairs, at: int) -> tuple[float, int]:
    read = model.read(model.encode(pairs.picture(at)))  # (1,Q,d)
    decoder = model.caption_decoder
    nats, tokens = 0.0, 0
    for text in pairs.references[at]:
        ids, lengths = decoder.tokenise([text])
        # One reference at a time: their mean over tokens times their tokens.
        loss = decoder(read, ids.to(read.device), lengths.to(read.device))
        nats += float(loss) * int(lengths[0])
        tokens += int(lengths[0])
    return nats, tokens
