"""The pages of `vlv eval arena` and `vlv eval vqa` on real images: captions with their scores, and
questions with their answers, of the best, worst and some random images.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from vlv.evaluation.real.arena import Scores
from vlv.evaluation.real.arena_images import Arena, set_images
from vlv.evaluation.real.pairs_page import Said, Shown
from vlv.evaluation.real.result_page import best_worst_random
from vlv.evaluation.real.said_page import said_page, shown, with_pictures
from vlv.evaluation.real.vqa import VQA
from vlv.evaluation.real.vqa_questions import ImageId
from vlv.evaluation.results import Result

# Questions of an image that are shown.
_QUESTIONS = 6


def ratings_page(result: Result, arena: Arena, scores: Scores) -> str:
    """Of scores from 0 to 6. Images are ordered by the mean score of the first captioner."""
    given: dict[str, dict[str, list[str]]] = {}
    values: dict[str, list[float]] = {}
    for rater, ratings in scores.ratings.items():
        for (image, captioner), score in ratings.items():
            reason = scores.reasons.get((rater, (image, captioner)), "")
            said = f"{rater}: {score}" + (f" ({reason})" if reason else "")
            given.setdefault(image, {}).setdefault(captioner, []).append(said)
            if captioner == arena.captioners[0]:
                values.setdefault(image, []).append(float(score))
    return _arena_page(result, arena, given, values, "score")


def verdicts_page(result: Result, arena: Arena, lines: Iterable[Mapping[str, Any]]) -> str:
    """Of verdicts on pairs. Images are ordered by the share that the first captioner won."""
    given: dict[str, dict[str, list[str]]] = {}
    values: dict[str, list[float]] = {}
    for line in lines:
        image, pair, points = line["file_name"], (line["first"], line["second"]), line["points"]
        for captioner, other, won in (
            (*pair, points),
            (*reversed(pair), 1 - points),
        ):
            word = {1.0: "better than", 0.0: "worse than"}.get(won, "as good as")
            said = f"{line['rater']}: {word} {other}"
            given.setdefault(image, {}).setdefault(captioner, []).append(said)
            if captioner == arena.captioners[0]:
                values.setdefault(image, []).append(won)
    return _arena_page(result, arena, given, values, "share of wins")


def _arena_page(
    result: Result,
    arena: Arena,
    given: Mapping[str, Mapping[str, Sequence[str]]],
    values: Mapping[str, Sequence[float]],
    by: str,
) -> str:
    images = list(values)

    def show(at: int) -> Shown:
        image = images[at]
        said = [
            Said(captioner, arena.captions[captioner][image], "; ".join(scores))
            for captioner in arena.captioners
            if (scores := given[image].get(captioner))
        ]
        return shown(image, said)

    means = np.array([np.mean(values[image]) for image in images])
    name = arena.captioners[0]
    sections = best_worst_random(
        means, f"Highest {by} of {name}", f"Lowest {by} of {name}", show, arena.seed
    )
    return said_page(result, with_pictures(arena.source, sections))


def answers_page(result: Result, vqa: VQA, lines: Iterable[Mapping[str, Any]]) -> str:
    """Of questions answered from captions. Images are ordered by the accuracy of the first
    captioner over all models and shots.
    """
    by_image: dict[ImageId, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_image.setdefault(line["image_id"], []).append(line)
    names = vqa.files(set_images(vqa.source))
    first = next(iter(vqa.captions))
    values = {
        image: float(np.mean(right))
        for image, many in by_image.items()
        if (right := [one["accuracy"] for one in many if one["captioner"] == first])
    }
    images = list(values)
    show = partial(_answers, vqa, by_image, names)
    sections = best_worst_random(
        np.array(list(values.values())),
        f"Highest accuracy of {first}",
        f"Lowest accuracy of {first}",
        lambda at: show(images[at]),
        vqa.seed,
    )
    return said_page(result, with_pictures(vqa.source, sections))


def _answers(
    vqa: VQA,
    by_image: Mapping[ImageId, Sequence[Mapping[str, Any]]],
    names: Mapping[ImageId, str],
    image: ImageId,
) -> Shown:
    said = [Said(name, texts[image], "") for name, texts in vqa.captions.items()]
    questions: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for line in by_image[image]:
        questions.setdefault((line["question_id"], line["question"]), []).append(line)
    for (_, question), many in list(questions.items())[:_QUESTIONS]:
        answers = "; ".join(
            f"{one['captioner']}, {one['model']}, {one['shots']} shots: “{one['answer']}” "
            f"({one['accuracy']:.2f})"
            for one in many
        )
        said.append(Said(question, answers, f"people say “{many[0]['best']}”"))
    return shown(names[image], said)
