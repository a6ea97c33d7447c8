"""Cancelled jobs in the middle of a batch: the rest of their work is not done."""

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
    CaptionJob,
    CaptionResult,
    Done,
    Event,
    ImageJob,
    Job,
    KeptEmbeddings,
    SamplerSettings,
    Submit,
)
from vlv.serving.worker.scheduler import Scheduler

SEEDS = (3, 4, 5)
CANCELLED = 1
STEPS = 6


@contextmanager
def count_rows(network: nn.Module) -> Iterator[list[int]]:
    """The number of rows of each forward pass of a network."""
    passes: list[int] = []

    def count(network: nn.Module, args: object, output: Any) -> None:
        passes.append(len(output if isinstance(output, Tensor) else output[0]))

    # Before the scheduler's own hook adds placeholders to the output.
    hook = network.register_forward_hook(count, prepend=True)
    yield passes
    hook.remove()


def embeddings(mini: VLV, seed: int) -> np.ndarray:
    return mini.encode(scene(seed))[0].numpy().astype(np.float32)


def run_jobs(
    mini: VLV, jobs: list[Job], cancel_when: Callable[[], bool] = lambda: False
) -> tuple[dict[int, object], int]:
    """Results of jobs that start together, and the number of steps; one job may be cancelled."""
    events: list[Event] = []
    scheduler = Scheduler(mini, events.append, max_batch=8, max_pictures=8)
    for id, job in enumerate(jobs):
        scheduler.handle(Submit(id, job))
    steps = 0
    while not scheduler.idle:
        if cancel_when():
            scheduler.handle(Cancel(CANCELLED))
        scheduler.step()
        steps += 1
    return {event.id: event.result for event in events if isinstance(event, Done)}, steps


@pytest.mark.parametrize(
    ("scheduler", "guidance"), [("ddpm", 2.0), ("dpm++", 2.0), ("dpm++sde", 2.0), ("ddim", 1.0)]
)
def test_a_cancelled_image_is_not_computed_any_more(
    mini: VLV, scheduler: str, guidance: float
) -> None:
    """Samplers that draw noise in every step, keep a history, or use no guidance."""
    sampler = SamplerSettings(guidance, STEPS, scheduler)
    jobs: list[Job] = [
        ImageJob((KeptEmbeddings(embeddings(mini, seed), 77),), sampler, seed) for seed in SEEDS
    ]
    with count_rows(mini.decoder.unet) as passes, count_rows(mini.decoder.vae.decoder) as decoded:
        results, _ = run_jobs(mini, jobs, lambda: len(passes) == 1)
    rows = 2 if guidance > 1 else 1
    assert passes == [3 * rows] + [2 * rows] * (STEPS - 1)
    assert decoded == [2]
    settings = {"guidance_scale": guidance, "num_inference_steps": STEPS, "scheduler": scheduler}
    assert sorted(results) == [0, 2]
    for id, result in results.items():
        (expected,) = mini.reconstruct(scene(SEEDS[id]), seeds=[SEEDS[id]], **settings).images
        assert np.abs(np.asarray(result).astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("min_new_tokens", [0, 40])
def test_a_cancelled_beam_search_is_not_computed_any_more(mini: VLV, min_new_tokens: int) -> None:
    settings = {"num_beams": 4, "max_new_tokens": 60, "min_new_tokens": min_new_tokens}
    jobs: list[Job] = [
        CaptionJob(
            embeddings(mini, seed), temperature=0.0, top_p=1.0, seed=0, stream=False, **settings
        )
        for seed in SEEDS
    ]
    with count_rows(mini.caption_decoder.lm) as passes:
        results, steps = run_jobs(mini, jobs, lambda: len(passes) == 4)
    assert passes == [12] * 4 + [8] * (len(passes) - 4)
    assert len(passes) > 10
    expected = mini.caption([scene(SEEDS[0]), scene(SEEDS[2])], **settings)
    captions = [results[0], results[2]]
    assert [one.caption.text for one in captions if isinstance(one, CaptionResult)] == expected
    others = [job for at, job in enumerate(jobs) if at != CANCELLED]
    assert steps == run_jobs(mini, others)[1]


def test_a_batch_ends_when_all_its_jobs_are_cancelled(mini: VLV) -> None:
    events: list[Event] = []
    scheduler = Scheduler(mini, events.append, max_batch=8, max_pictures=8)
    for seed in SEEDS:
        source = (KeptEmbeddings(embeddings(mini, seed), 77),)
        scheduler.handle(Submit(seed, ImageJob(source, SamplerSettings(2.0, 1000, "ddim"), seed)))
    with count_rows(mini.decoder.unet) as passes:
        while not passes:
            scheduler.step()
        for seed in SEEDS:
            assert not scheduler.idle
            scheduler.handle(Cancel(seed))
    assert scheduler.idle
    assert passes == [6]
    assert not [event for event in events if isinstance(event, Done)]
