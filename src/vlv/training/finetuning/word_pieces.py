"""Word pieces of the captions that the base has not learned. A LoRA leaves the embeddings of tokens
frozen, so a model that was trained on few words cannot spell others; their rows train beside it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from pydantic import BaseModel
from torch import Tensor

from vlv.errors import TrainingError
from vlv.files import atomic_file
from vlv.models.caption_decoder import CaptionDecoder
from vlv.text import read_object
from vlv.training.config import check_config
from vlv.training.run_folder import writing

# Places of a token that are enough to judge it by, and captions that are read for it at most.
_PLACES, _CAPTIONS = 16, 2048
# How many times as likely as a blind guess a token is at most that has not been learned.
_HARDLY = 2


class _Found(BaseModel):
    """The file of a run."""

    word_pieces: list[int]


def word_pieces_of_run(path: Path, find: Callable[[], list[int]]) -> list[int]:
    """Those of the file, or those that are found, which are then written there: a run that goes on
    trains the same rows, also where it computes a little differently.
    """
    if path.is_file():
        return check_config(_Found, read_object(path, TrainingError), str(path)).word_pieces
    found = _Found(word_pieces=find())
    with writing(path), atomic_file(path) as unfinished:
        unfinished.write_text(found.model_dump_json() + "\n", encoding="utf-8")
    return found.word_pieces


@torch.no_grad()
def unlearned_pieces(
    decoder: CaptionDecoder,
    captions: Iterable[tuple[str, Callable[[], Tensor]]],
    max_tokens: int,
) -> list[int]:
    """Tokens that the base finds hardly likelier than a blind guess at most places in `captions`,
    each of which is given with what computes its c (1,Q,d). A caption of which each token has been
    seen at enough places is not read.
    """
    # After a piece that it has not learned, a model may find all others equally likely.
    hardly = math.log(_HARDLY / decoder.lm.config.vocab_size)
    found: defaultdict[int, list[float]] = defaultdict(list)
    for caption, conditioning in islice(captions, _CAPTIONS):
        ids: list[int] = decoder.tokenise([caption], max_tokens)[0][0].tolist()
        if all(len(found[token]) >= _PLACES for token in ids):
            continue
        expected = decoder.log_probabilities(conditioning(), ids)
        for place, token in enumerate(ids):
            found[token].append(float(expected[place, token]))
    return sorted(token for token, values in found.items() if median(values) < hardly)
