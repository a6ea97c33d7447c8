"""Jobs that nobody waits for any more, in the middle of a batch: what is left of it is not done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.serving.conftest import scene
from torch import Tensor, nn

from vlv.pipeline import VLV
from vlv.serving.worker.jobs import (
    Cancel,
    Caption,
    CaptionJob,
    Done,
    Drawing,
    DrawJob,
    Event,
    Job,
    Part,
    Submit,
)
from vlv.serving.worker.scheduler import Scheduler

SEEDS = (3, 4, 5)
LEAVES = 1
STEPS = 6


@contextmanager
def rows_of(network: nn.Module) -> Iterator[list[int]]:
    """How many rows each pass through a network has."""
    passes: list[int] = []

    def count(network: nn.Module, args: object, output: Any) -> None:
        passes.append(len(output if isinstance(output, Tensor) else output[0]))

    # Before the scheduler's own hook puts blanks into what comes out.
    hook = network.register_forward_hook(count, prepend=True)
    yield passes
    hook.remove()


def embedded(mini: VLV, seed: int) -> np.ndarray:
    return mini.encode(scene(seed))[0].numpy().astype(np.float32)


def done(
    mini: VLV, jobs: list[Job], leave_when: Callable[[], bool] = lambda: False
) -> tuple[dict[int, object], int]:
    """Results of jobs that begin together, and the turns until the last; one is cancelled."""
    told: list[Event] = []
    scheduler = Scheduler(mini, told.append, max_batch=8, max_pictures=8)
    for id, job in enumerate(jobs):
        scheduler.take(Submit(id, job))
    turns = 0
    while not scheduler.idle:
        if leave_when():
            scheduler.take(Cancel(LEAVES))
        scheduler.turn()
        turns += 1
    return {event.id: event.result for event in told if isinstance(event, Done)}, turns


@pytest.mark.parametrize(("scheduler", "guidance"), [("ddpm", 2.0), ("dpm++", 2.0), ("ddim", 1.0)])
def test_a_picture_that_is_left_is_drawn_no_further(
    mini: VLV, scheduler: str, guidance: float
) -> None:
    """Samplers that draw noise on the way, remember earlier steps, or go without guidance."""
    drawing = Drawing(guidance, STEPS, scheduler)
    jobs: list[Job] = [DrawJob((Part(embedded(mini, seed), 77),), drawing, seed) for seed in SEEDS]
    with rows_of(mini.decoder.unet) as passes, rows_of(mini.decoder.vae.decoder) as decoded:
        results, _ = done(mini, jobs, lambda: len(passes) == 1)
    each = 2 if guidance > 1 else 1
    assert passes == [3 * each] + [2 * each] * (STEPS - 1)
    assert decoded == [2]
    settings = {"guidance_scale": guidance, "num_inference_steps": STEPS, "scheduler": scheduler}
    assert sorted(results) == [0, 2]
    for id, result in results.items():
        (alone,) = mini.reconstruct(scene(SEEDS[id]), seeds=[SEEDS[id]], **settings).images
        assert np.abs(np.asarray(result).astype(int) - np.asarray(alone)).max() <= 2


@pytest.mark.parametrize("min_new_tokens", [0, 40])
def test_a_search_that_is_left_goes_no_further(mini: VLV, min_new_tokens: int) -> None:
    settings = {"num_beams": 4, "max_new_tokens": 60, "min_new_tokens": min_new_tokens}
    jobs: list[Job] = [
        CaptionJob(
            embedded(mini, seed), temperature=0.0, top_p=1.0, seed=0, stream=False, **settings
        )
        for seed in SEEDS
    ]
    with rows_of(mini.caption_decoder.lm) as passes:
        results, turns = done(mini, jobs, lambda: len(passes) == 4)
    assert passes == [12] * 4 + [8] * (len(passes) - 4)
    assert len(passes) > 10
    expected = mini.caption([scene(SEEDS[0]), scene(SEEDS[2])], **settings)
    made = [results[0], results[2]]
    assert [one.text for one in made if isinstance(one, Caption)] == expected
    others = [job for at, job in enumerate(jobs) if at != LEAVES]
    assert turns == done(mini, others)[1]


def test_a_batch_that_all_have_left_ends(mini: VLV) -> None:
    told: list[Event] = []
    scheduler = Scheduler(mini, told.append, max_batch=8, max_pictures=8)
    for seed in SEEDS:
        source = (Part(embedded(mini, seed), 77),)
        scheduler.take(Submit(seed, DrawJob(source, Drawing(2.0, 1000, "ddim"), seed)))
    with rows_of(mini.decoder.unet) as passes:
        while not passes:
            scheduler.turn()
        for seed in SEEDS:
            assert not scheduler.idle
            scheduler.take(Cancel(seed))
    assert scheduler.idle
    assert passes == [6]
    assert not [event for event in told if isinstance(event, Done)]
