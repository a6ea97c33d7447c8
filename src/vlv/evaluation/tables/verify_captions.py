"""What verification does to captions: the best of several, and unsupported sentences dropped."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from vlv.evaluation.bench import Bench
from vlv.evaluation.metrics.captions import caption_figures
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.results import Row
from vlv.inference.records import Captioned, ImageInput
from vlv.inference.verification import CheckSettings, check
from vlv.models.outputs import Caption
from vlv.training.selection import by_decoder, by_likelihood, by_truth
from vlv.training.verifier import sampled_captions
from vlv.verification.scorer import VerifySettings

_KEPT = ("precision", "recall", "object_recall", "hallucinated", "flawless", "words")
_GUIDANCE = 2.0
_NEAR = VerifySettings(against="embeddings")


def caption_rows(bench: Bench, best_of: int, false_alarm_rate: float) -> list[Row]:
    """Captions of every scene, selected or shortened in several ways: figures of the captions, and
    the F1 of pictures drawn from them.
    """
    model, scenes = bench.model, bench.data.scenes
    images = [Image.fromarray(render) for render in bench.data.renders]
    samples = [
        sampled_captions(model, bench.z[at : at + 1], bench.config.seed + at, best_of)
        for at in range(len(scenes))
    ]

    def chosen(score: Callable[[int, list[str]], Sequence[float]]) -> list[str]:
        picked = []
        for at, many in enumerate(samples):
            scores = list(score(at, many))
            picked.append(many[scores.index(max(scores))])
        return picked

    drop = CheckSettings(drop_unsupported=True, false_alarm_rate=false_alarm_rate)
    captions = {
        "beam search": bench.captions,
        "beam search, unsupported sentences dropped": [
            check(model, _captioned(image, text), drop).caption
            for image, text in zip(images, bench.captions, strict=True)
        ],
        "one sample": [many[0] for many in samples],
        f"best of {best_of} by the decoder": chosen(
            lambda at, many: by_decoder(model, images[at], many)
        ),
        f"best of {best_of} by the decoder, against the embeddings": chosen(
            lambda at, many: by_decoder(model, images[at], many, _NEAR)
        ),
        f"best of {best_of} by likelihood": chosen(
            lambda at, many: by_likelihood(model, bench.z[at : at + 1], many)
        ),
        f"best of {best_of} by truth (ceiling)": chosen(
            lambda at, many: by_truth(scenes[at], many)
        ),
    }
    return [
        Row({"part": "captions", "what": name}, len(texts), _figures(bench, name, texts))
        for name, texts in captions.items()
    ]


def _captioned(image: Image.Image, text: str) -> Captioned:
    return Captioned(ImageInput("", image), (Caption(text, True, 0),))


def _figures(bench: Bench, name: str, texts: list[str]) -> dict[str, Figure]:
    with torch.no_grad():
        c = bench.model.text_tower.encode_text(texts)
    drawn = bench.judge.score(bench.image_sampler.draw(c, _GUIDANCE, name))
    figures = caption_figures(texts, bench.data.scenes, bench.config.seed)
    return {key: figures[key] for key in _KEPT} | {"f1": bench.judge.figure("f1", drawn)}
