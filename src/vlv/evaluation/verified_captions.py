"""What checking does to captions: the best of several, and doubtful sentences dropped."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from vlv.evaluation.bench import Bench
from vlv.evaluation.captions import caption_figures, caption_ratios
from vlv.evaluation.metrics import Figure
from vlv.evaluation.results import Row
from vlv.evaluation.sentence_scores import token_log_likelihoods
from vlv.inference.captioning import Captioned
from vlv.inference.verification import CheckSettings, check
from vlv.models.verification import VerifySettings, Witness
from vlv.training.verifier import sampled_captions

_KEPT = ("precision", "recall", "object_recall", "hallucinated", "flawless", "words")
_GUIDANCE = 2.0


def caption_rows(bench: Bench, best_of: int, false_alarm_rate: float) -> list[Row]:
    """Captions of every scene, chosen or shortened in several ways, each measured as captions and
    by the F1 of pictures drawn from them.
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
        "beam search, doubtful sentences dropped": [
            check(model, image, Captioned("", text, True, 0), drop).caption
            for image, text in zip(images, bench.captions, strict=True)
        ],
        "one sample": [many[0] for many in samples],
        f"best of {best_of} by the decoder": chosen(
            lambda at, many: Witness(model, images[at], VerifySettings()).score(many)
        ),
        f"best of {best_of} by likelihood": chosen(
            lambda at, many: [_likelihood(bench, at, text) for text in many]
        ),
        f"best of {best_of} by truth (ceiling)": chosen(
            lambda at, many: [_truth(bench, at, text) for text in many]
        ),
    }
    return [
        Row({"part": "captions", "what": name}, len(texts), _figures(bench, name, texts))
        for name, texts in captions.items()
    ]


def _figures(bench: Bench, name: str, texts: list[str]) -> dict[str, Figure]:
    with torch.no_grad():
        c = bench.model.text_tower.encode_text(texts)
    drawn = bench.judge.score(bench.painter.draw(c, _GUIDANCE, name))
    figures = caption_figures(texts, bench.data.scenes, bench.config.seed)
    return {key: figures[key] for key in _KEPT} | {"f1": bench.judge.figure("f1", drawn)}


def _likelihood(bench: Bench, at: int, text: str) -> float:
    """Mean log-likelihood of a token."""
    sentences = token_log_likelihoods(bench.model, bench.z[at : at + 1], text)
    return sum(map(sum, sentences)) / max(sum(map(len, sentences)), 1)


def _truth(bench: Bench, at: int, text: str) -> float:
    """Mean of precision and recall of facts."""
    ratios = caption_ratios([text], [bench.data.scenes[at]])
    parts = [ratios[name] for name in ("precision", "recall")]
    return sum(float(one.over[0] / max(one.under[0], 1)) for one in parts) / 2
