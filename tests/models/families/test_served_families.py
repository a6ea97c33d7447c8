"""Images of every family in the batches of the service."""

import numpy as np
import pytest
import torch
from tests.serving.scheduling import CANCELLED, count_rows, run_jobs

from vlv.pipeline import VLV
from vlv.serving.worker.jobs import ImageJob, Job, KeptEmbeddings, SamplerSettings


@pytest.mark.parametrize("from_text", [False, True])
def test_a_cancelled_image_leaves_the_batch_of_every_family(model: VLV, from_text: bool) -> None:
    """What has a row for each image differs: timesteps, pooled vectors, sizes; positions have none.
    With FLUX there are as many positions as images.
    """
    family = model.decoder.family.record
    sampler = SamplerSettings(2.0, 3, model.decoder.family.default_sampler)
    queries, count = 6, 4
    z = 0.5 * torch.randn(count, queries, model.text_tower.width).numpy()
    jobs: list[Job] = [
        ImageJob("a red cube" if from_text else (KeptEmbeddings(one, queries),), sampler, seed)
        for seed, one in enumerate(z)
    ]
    with count_rows(model.decoder.denoiser) as passes:
        results, _ = run_jobs(model, jobs, lambda: len(passes) == 1)
    rows = 2 if family.negative_prompt else 1
    assert passes == [count * rows] + [(count - 1) * rows] * 2
    with count_rows(model.decoder.denoiser) as passes:
        expected, _ = run_jobs(model, [job for id, job in enumerate(jobs) if id != CANCELLED])
    assert passes == [(count - 1) * rows] * 3
    assert sorted(results) == [0, 2, 3]
    for result, other in zip(results.values(), expected.values(), strict=True):
        assert np.abs(np.asarray(result).astype(int) - np.asarray(other)).max() <= 2
