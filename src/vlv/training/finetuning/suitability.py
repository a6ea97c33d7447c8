"""Whether the base can do what the pictures and captions ask of it, said before it trains: a
fine-tune changes how a model writes. It does not change what the model sees, and it teaches words
that the base cannot write only where they are few.
"""

import math
from collections.abc import Callable, Sequence

import torch

from vlv.models.vlv import VLVModel
from vlv.text import printable
from vlv.training.finetuning.conditionings import pixels_of
from vlv.training.finetuning.objective import FinetuneObjective
from vlv.training.finetuning.pictures import CaptionedPicture, Pictures

# Pictures, evenly over the set, of which the out-of-distribution detector is asked.
_LOOKED_AT = 64
# Captions whose loss under the base is computed.
_READ = 64
_ADVICE = "for photographs fine-tune full-size weights (docs/full_size.md)"


@torch.no_grad()
def check_pictures(
    name: str, model: VLVModel, pictures: Pictures, crop: int | None, say: Callable[[str], None]
) -> None:
    """Say it where most pictures are out of distribution for the base."""
    detector = model.ood_detector
    if detector is None:
        return
    some = pictures.good[:: math.ceil(len(pictures.good) / _LOOKED_AT)]
    size, encoder = model.encoder.settings.image_size, model.encoder
    strange = 0
    for one in some:
        pixels = torch.from_numpy(pixels_of(pictures, one, size, crop).copy())[None]
        tokens = encoder.image_tokens(encoder.preprocess_uint8(pixels.to(model.device)))
        strange += not bool(detector(tokens))
    if strange > len(some) / 2:
        say(
            f"warning: {strange} of {len(some)} pictures are unlike those that {printable(name)} "
            "was trained on: it sees little in them, and a fine-tune does not change that; "
            f"{_ADVICE}"
        )


def check_words(
    name: str,
    objective: FinetuneObjective,
    learned: Sequence[CaptionedPicture],
    say: Callable[[str], None],
) -> None:
    """Say it where the base finds the captions less likely than a blind guess would."""
    loss = objective.before
    if loss is None:
        loss = objective.caption_loss(learned[:_READ])
    guess = math.log(objective.caption_decoder.lm.config.vocab_size)
    if loss > guess:
        say(
            f"warning: {printable(name)} does not know the words of these captions (a loss of "
            f"{loss:.1f} a token, and a blind guess has {guess:.1f}): it will hardly spell them; "
            f"{_ADVICE}"
        )
