"""Sample sources: what they draw at a position, and that workers of any kind can hold them."""

import json
import multiprocessing
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import Workshop
from tests.training.image_folders import write_images
from torch import Tensor

from vlv.training.registry import build_stage
from vlv.training.samples.data_order import generator
from vlv.training.samples.draws import denoising_draws
from vlv.training.stages.common import draw_settings
from vlv.world.language import caption_objects, read_caption

LATENT = (4, 8, 8)


def drawn_as_timesteps(
    seed: int, position: int, timesteps: int, bias: float, draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, timesteps and the noise of the posterior as sources drew them when they knew how many
    timesteps there are: runs of that time go on with the same ones.
    """
    random = generator(seed, position, "denoising")
    noise = torch.randn((draws, *LATENT), generator=random)
    spread = (torch.rand(1, generator=random) + torch.arange(draws) / draws) % 1.0
    noisiness = spread ** (1 / bias)
    drawn = (noisiness * timesteps).long().clamp(max=timesteps - 1)
    return noise, drawn, torch.randn(LATENT, generator=random)


@pytest.mark.parametrize(("bias", "draws"), [(1.0, 1), (1.0, 3), (1.5, 2), (7.0, 4), (1e6, 2)])
def test_timesteps_and_noise_are_those_of_their_seed_and_position(
    workshop: Workshop, bias: float, draws: int
) -> None:
    objective: Any = build_stage("stage1", workshop.config("stage1")).objective
    decoder = objective.decoder
    for timesteps in (1000, 7):
        decoder.scheduler.register_to_config(num_train_timesteps=timesteps)
        for seed, position in [(0, at) for at in range(150)] + [(3, 2**40), (2**62, 5)]:
            noise, expected, posterior = drawn_as_timesteps(seed, position, timesteps, bias, draws)
            made = denoising_draws(LATENT, seed, position, bias=bias, draws=draws)
            assert torch.equal(decoder.noise_process.timesteps(made["u"]), expected)
            assert torch.equal(made["noise"], noise)
            assert torch.equal(made["posterior_noise"], posterior)
            assert made["u"].min() >= 0 and made["u"].max() < 1


def test_a_stage_draws_for_its_decoder(workshop: Workshop) -> None:
    config = workshop.config("stage1", timestep_bias=2.0, noise_draws=3, seed=5)
    stage = build_stage("stage1", config)
    objective: Any = stage.objective
    settings = draw_settings(stage.config, objective.decoder, 3)  # type: ignore[arg-type]
    item, expected = stage.samples.item(11, 4), settings.at(11)
    assert item["latents"].shape == item["noise"].shape == (3, *LATENT)
    for name in ("noise", "u"):
        assert torch.equal(item[name], expected[name])


STAGES = ("vae", "text-to-image", "language-model", "inspector", "stage1", "stage2")


@pytest.mark.parametrize("name", STAGES)
def test_a_source_holds_no_network_and_its_copy_gives_the_same_items(
    workshop: Workshop, name: str
) -> None:
    samples = build_stage(name, workshop.config(name)).samples
    sent = pickle.dumps(samples)
    # Tokenizers of these sizes are 100 kB; weights or pictures would be more.
    assert len(sent) < 300_000
    assert b"torch.nn" not in sent
    # Of the models' room only what holds no network.
    assert set(re.findall(rb"vlv\.models\.(\w+)", sent)) <= {b"latent_codec", b"tokenizers"}
    copy = pickle.loads(sent)
    for position in (0, 40):
        mine, theirs = samples.item(position, 3), copy.item(position, 3)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_share_of_captions_tells_numbers_instead_of_lists(workshop: Workshop) -> None:
    def named(share: float) -> list[int]:
        """How many objects each of 64 captions describes."""
        config = workshop.config("text-to-image", caption_dropout=0, counted_captions=share)
        stage: Any = build_stage("text-to-image", config)
        (tokenizer,) = stage.objective.text_tower.tokenizers.values()
        ids = torch.stack([stage.samples.item(at, at % 32)["input_ids"] for at in range(64)])
        captions = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [len(caption_objects(read_caption(one))) for one in captions]

    whole, half, every = named(0), named(0.5), named(1)
    assert set(whole) == {1, 2, 3}
    assert all(a == 1 for a, b in zip(every, whole, strict=True) if b == 1)
    several = sum(number > 1 for number in whole)
    fewer = [sum(a < b for a, b in zip(some, whole, strict=True)) for some in (half, every)]
    # Of n objects none to all are named, so n of n + 1 lists are not complete.
    assert 0.2 < fewer[0] / several < 0.5 < 0.6 < fewer[1] / several < 0.85


def test_a_dropped_caption_is_an_empty_text_and_says_so(workshop: Workshop) -> None:
    stage: Any = build_stage("text-to-image", workshop.config("text-to-image", caption_dropout=0.5))
    (empty,) = stage.objective.text_tower.tokenise([""])
    items = [stage.samples.item(at, at) for at in range(16)]
    dropped = [bool(one["dropped"]) for one in items]
    assert dropped == [torch.equal(one["input_ids"], empty) for one in items]
    assert len(set(dropped)) == 2


@pytest.mark.parametrize("layout", ["folder", "webdataset", "parquet"])
def test_sources_of_images_on_disk_can_be_sent_to_workers(
    workshop: Workshop, tmp_path: Path, layout: str
) -> None:
    data = {"set": str(write_images(tmp_path / layout, layout)), "index_folder": str(tmp_path)}
    samples = build_stage("stage2", workshop.config("stage2", data=data)).samples
    copy = pickle.loads(pickle.dumps(samples))
    assert copy.fingerprint == samples.fingerprint and len(copy) == len(samples)
    mine, theirs = samples.item(1, 5), copy.item(1, 5)
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.fixture
def spawned() -> Iterator[None]:
    """Processes start as they do on macOS, Windows, and Linux from Python 3.14 on."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("spawned")
def test_spawned_workers_train_to_the_same_losses_with_gradient_checkpointing(
    workshop: Workshop, tmp_path: Path
) -> None:
    def losses(workers: int) -> list[float]:
        folder = tmp_path / str(workers)
        workshop.run(
            "stage1",
            output_dir=str(folder),
            dataloader_num_workers=workers,
            gradient_checkpointing=True,
            noise_draws=2,
            max_train_steps=3,
            logging_steps=1,
        )
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    assert losses(2) == losses(0)
