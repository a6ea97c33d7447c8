"""Cancelled jobs in the middle of a batch: the rest of their work is not done."""

from dataclasses import replace

import numpy as np
import pytest
from tests.serving.conftest import scene
from tests.serving.scheduling import CANCELLED, count_rows, run_jobs

from vlv.pipeline import VLV
from vlv.serving.worker.jobs import (
    Cancel,
    CaptionJob,
    CaptionResult,
    Done,
    Event,
    Failed,
    ImageJob,
    Job,
    KeptEmbeddings,
    SamplerSettings,
    Submit,
)
from vlv.serving.worker.scheduler import Scheduler

SEEDS = (3, 4, 5)
STEPS = 6


def embeddings(mini: VLV, seed: int) -> np.ndarray:
    return mini.encode(scene(seed))[0].numpy().astype(np.float32)


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


def test_a_computation_that_fails_fails_its_jobs_only(
    mini: VLV, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others of the worker go on: a new process would begin them again."""
    z = embeddings(mini, 3)
    sampler = SamplerSettings(2.0, 2, "dpm++")
    image = ImageJob((KeptEmbeddings(z, 77),), sampler, 0)
    settings = {"num_beams": 1, "max_new_tokens": 8, "min_new_tokens": 0}
    caption = CaptionJob(z, temperature=0.0, top_p=1.0, seed=0, stream=False, **settings)
    _ = mini.caption_decoder  # the scheduler takes what is loaded
    broken = RuntimeError("a kernel is missing")

    def fail(*_: object) -> None:
        raise broken

    events: list[Event] = []
    scheduler = Scheduler(mini, events.append, max_batch=8, max_pictures=8)
    with monkeypatch.context() as patched:
        patched.setattr(mini.decoder.vae.decoder, "forward", fail)
        for id, job in enumerate((image, caption, image)):
            scheduler.handle(Submit(id, job))
        while not scheduler.idle:
            scheduler.step()
    failed = {one.id: (one.status, one.code) for one in events if isinstance(one, Failed)}
    assert failed == {id: (500, "computation_failed") for id in (0, 2)}
    assert [event.id for event in events if isinstance(event, Done)] == [1]
    with monkeypatch.context() as patched:
        patched.setattr(mini.encoder.florence.vision_tower, "forward", fail)
        scheduler.handle(Submit(3, replace(caption, source=np.asarray(scene(3)))))
        while not scheduler.idle:
            scheduler.step()
    assert [event.id for event in events if isinstance(event, Failed)] == [0, 2, 3]
    scheduler.handle(Submit(4, image))
    while not scheduler.idle:
        scheduler.step()
    assert [event.id for event in events if isinstance(event, Done)] == [1, 4]
