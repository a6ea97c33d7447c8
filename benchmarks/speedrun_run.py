"""One run of the speedrun: a fresh encoder is trained until it has reached both targets.

The objective, the samples, the data order and the optimizer's state are those of `vlv train
stage1`; the loop here is a short one, which counts what it does and ends when both targets are met.
What is measured on the way is not part of the cost.

Shapes: B batch, K draws of noise on a picture, C, h, w latents.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from speedrun_levers import Levers, begin_at_text, reshape, start_wide
from speedrun_world import PictureStore, narrow_scenes
from torch import Tensor, nn
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from vlv.evaluation.metrics.flops import encoder_step, step_flops
from vlv.evaluation.metrics.pictures import PictureJudge
from vlv.evaluation.results import silent
from vlv.evaluation.sampling import ImageSampler, encode
from vlv.models.precision import use_fast_attention
from vlv.models.vlv import VLVModel
from vlv.training.config import WorldDataConfig
from vlv.training.objectives.denoising import DenoisingProbe
from vlv.training.samples.data_order import NEW_RUNS, key, sample_index
from vlv.training.samples.encoding import ImageSamples
from vlv.training.samples.held_out import SetHeldOut
from vlv.training.samples.source import Batch
from vlv.training.samples.world import VALIDATION_SEED
from vlv.training.stages.common import draw_settings
from vlv.training.stages.stage1 import Stage1Config, make_objective, open_boxes
from vlv.training.state import TrainingState
from vlv.training.whitened_start import PICTURES, start_whitened
from vlv.world.inspector import DEFAULT_FOLDER, Inspector, to_pixels
from vlv.world.language import short_caption


@dataclass(frozen=True)
class Targets:
    """The held-out denoising loss, and the F1 of objects in pictures drawn from z."""

    loss: float
    f1: float

    def met(self, point: Mapping[str, float]) -> bool:
        """Whether a measured point is at least as good."""
        return point["loss"] <= self.loss and point.get("f1", 0.0) >= self.f1


@dataclass
class Spent:
    """What a run has cost so far, without what was measured."""

    samples: int = 0
    flops: float = 0.0
    cpu_seconds: float = 0.0


def speedrun(
    config: Stage1Config,
    levers: Levers,
    targets: Targets | None,
    scenes: int,
    report: Callable[[Mapping[str, float]], None] = lambda point: None,
) -> list[dict[str, float]]:
    """Train from a fresh encoder, measuring every `validation_steps`, until both targets are met or
    `max_train_steps` are done. Returns what was measured, and what had been spent until then.

    scenes: how many F1 is measured on; 0 leaves it out. It is measured where the loss meets its
    target, and at the end.
    """
    torch.set_num_threads(config.num_threads or 1)
    torch.manual_seed(config.seed)
    run = Trainer(config, levers)
    f1 = _F1(run, scenes) if scenes else None
    points: list[dict[str, float]] = []
    for step in range(1, config.max_train_steps + 1):
        run.step()
        last = step == config.max_train_steps
        if not last and step % config.validation_steps:
            continue
        with run.measuring():
            point = {"step": step, **vars(run.spent), "loss": run.held_out_loss()}
            low_enough = targets is not None and point["loss"] <= targets.loss
            if f1 and (last or low_enough):
                point["f1"] = f1()
        points.append(point)
        report(point)
        if targets is not None and targets.met(point):
            break
    return points


class Trainer:
    """The networks of a run and their next step."""

    def __init__(self, config: Stage1Config, levers: Levers) -> None:
        self.config, self.levers, self.spent = config, levers, Spent()
        boxes = open_boxes(config)
        data = config.data
        assert isinstance(data, WorldDataConfig)  # the rows' own
        pictures = narrow_scenes("train", 0, data.count, data.folder)
        apart = narrow_scenes("test", VALIDATION_SEED, config.validation_count, data.folder)
        held_out = SetHeldOut(apart.images, [], 64)
        assert boxes.encoder is not None and boxes.decoder is not None  # those of stage 1
        reshape(boxes.encoder, levers, boxes.image_size)
        if levers.wide_start:
            start_wide(boxes.encoder)
        self.decoder, self.tower = boxes.decoder, boxes.text_tower
        self.objective = make_objective(config, boxes, held_out)
        use_fast_attention(self.objective, torch.device("cpu"))
        draws = draw_settings(config, self.decoder, config.noise_draws)
        self.samples = ImageSamples(PictureStore(pictures), config.seed, draws=draws)
        self._begin(pictures.images)
        self.state = TrainingState(self.objective, config, self.samples.counted)
        self._moments: dict[int, Tensor] = {}
        self._probe = DenoisingProbe(self.decoder, held_out)
        self._held_out = held_out
        self._step_flops = sample_flops(self.model(), config, levers)
        self._vae_flops = vae_flops(self.model())
        self._update_flops: int | None = None

    def _begin(self, images: NDArray[np.uint8]) -> None:
        """The weights at the start, where fresh ones are not taken as they are."""
        started = time.process_time()
        with FlopCounterMode(display=False) as counter:
            if self.levers.whitened_phi:
                pictures = torch.from_numpy(images[:PICTURES].copy())
                start_whitened(self.objective.encoder, pictures, fresh_vision=True)
            if self.levers.phi_at_text is not None:
                begin_at_text(self.objective, self.levers.phi_at_text, images)
        self.spent.flops += counter.get_total_flops()
        self.spent.cpu_seconds += time.process_time() - started

    def step(self) -> None:
        """One step of the optimizer, added to what was spent."""
        started = time.process_time()
        config, state, spent = self.config, self.state, self.spent
        frozen = state.step < self.levers.frozen_vision_steps
        self._freeze_vision(frozen)
        self.objective.train()
        torch.manual_seed(key(config.seed, state.step, 0, 0))
        batch = self._batch()
        with self._precision():
            loss = self.objective(batch)[0]
        loss.backward()
        nn.utils.clip_grad_norm_(list(state.parameters.values()), config.max_grad_norm)
        self._update()
        spent.samples += config.train_batch_size
        spent.flops += config.train_batch_size * self._step_flops[frozen] + (
            self._update_flops or 0
        )
        spent.cpu_seconds += time.process_time() - started
        state.step += 1

    def held_out_loss(self) -> float:
        """Mean denoising loss of the held-out pictures under their own z."""
        encoder = self.objective.encoder
        chunks = self._held_out.chunks()
        with self._precision():
            z = [encoder(encoder.preprocess_uint8(self._held_out.bytes_of(one))) for one in chunks]
            return self._probe.loss(self.tower(torch.cat(z).float()))

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside, the weights are those that are measured, and nothing learns."""
        self.objective.eval()
        with torch.no_grad(), self.state.ema_weights():
            yield

    def model(self) -> VLVModel:
        """The boxes as they are now."""
        objective = self.objective
        return VLVModel.from_boxes(
            encoder=objective.encoder, text_tower=objective.text_tower, decoder=objective.decoder
        )

    def _batch(self) -> Batch:
        config, size = self.config, self.config.train_batch_size
        first = self.state.step * size
        order, count = config.data_order or NEW_RUNS, len(self.samples)
        places = [
            (position, sample_index(config.seed, position, count, order))
            for position in range(first, first + size)
        ]
        batch: Batch = default_collate([self.samples.item(*place) for place in places])
        if self.levers.cached_latents:
            self._put_latents(batch, [index for _, index in places])
        return batch

    def _put_latents(self, batch: Batch, indices: list[int]) -> None:
        """Latents for `posterior_noise` from what the VAE made of each picture at its first use."""
        new = [at for at, index in enumerate(indices) if index not in self._moments]
        if new:
            with torch.no_grad(), self._precision():
                posterior = self.decoder.vae.encode(to_pixels(batch["image"][new])).latent_dist
            moments = torch.stack([posterior.mean, posterior.std], dim=1).half()
            self._moments |= {indices[at]: one for at, one in zip(new, moments, strict=True)}
            self.spent.flops += len(new) * self._vae_flops
        known = torch.stack([self._moments[index] for index in indices]).float()
        noise = batch.pop("posterior_noise")
        scale = float(self.decoder.vae.config.scaling_factor)
        latents = (known[:, 0] + known[:, 1] * noise) * scale
        batch["latents"] = latents.unsqueeze(1).expand_as(batch["noise"])

    def _update(self) -> None:
        if self._update_flops is None:
            with FlopCounterMode(display=False) as counter:
                self._take_step()
            self._update_flops = int(counter.get_total_flops())
        else:
            self._take_step()

    def _take_step(self) -> None:
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        self.state.update()

    def _freeze_vision(self, frozen: bool) -> None:
        if self.levers.frozen_vision_steps:
            self.objective.encoder.florence.vision_tower.requires_grad_(not frozen)

    def _precision(self) -> Any:
        return torch.autocast(
            "cpu", dtype=torch.bfloat16, enabled=self.config.mixed_precision == "bf16"
        )


class _F1:
    """F1 of objects in pictures drawn from z, as `vlv eval mini` measures it."""

    def __init__(self, run: Trainer, count: int) -> None:
        self._run = run
        data = run.config.data
        assert isinstance(data, WorldDataConfig)  # the rows' own
        pictures = narrow_scenes("test", 0, count, data.folder)
        self._renders = pictures.images
        inspector = Inspector.from_pretrained(DEFAULT_FOLDER)
        self._judge = PictureJudge(inspector, pictures.scenes, self._renders, 0)

    def __call__(self) -> float:
        model = self._run.model()
        sampler = ImageSampler(
            model,
            seed=0,
            num_inference_steps=8,
            scheduler="dpm++",
            mixed_precision=self._run.config.mixed_precision,
            batch_size=50,
            progress=silent,
        )
        z = encode(model, self._renders, 50, silent, "embeddings")
        pictures = sampler.draw(model.condition(z), 2.0, "embeddings")
        return self._judge.figures(self._judge.score(pictures))["f1"].value


@torch.no_grad()
def loss_bounds(config: Stage1Config) -> dict[str, float]:
    """Held-out losses with the unconditional context, and with a true caption of each scene."""
    boxes, data = open_boxes(config), config.data
    assert isinstance(data, WorldDataConfig) and boxes.decoder is not None  # the rows' own
    count = config.validation_count
    apart = narrow_scenes("test", VALIDATION_SEED, count, data.folder)
    probe = DenoisingProbe(boxes.decoder, SetHeldOut(apart.images, [], 64))
    captions = [
        short_caption(scene, np.random.default_rng(place))
        for place, scene in enumerate(apart.scenes)
    ]
    tower = boxes.text_tower
    return {
        "unconditional": probe.loss(tower.unconditional(count, tower.positions)),
        "true captions": probe.loss(tower.encode_text(captions)),
    }


def sample_flops(boxes: VLVModel, config: Stage1Config, levers: Levers) -> dict[bool, float]:
    """Of one picture with its draws, without and with a frozen vision tower; the VAE is in it where
    latents are not cached.
    """
    found = {}
    for frozen in (False, True):
        trainable = ["encoder"] if frozen else config.trainable
        counted = config.model_copy(update={"trainable": trainable})
        found[frozen] = float(step_flops(*encoder_step(counted, _without_contents(boxes), 0)))
        if not levers.cached_latents:
            found[frozen] += vae_flops(boxes)
    return found


def vae_flops(boxes: VLVModel) -> float:
    """Of one picture through the VAE's encoder."""
    decoder = _without_contents(boxes).decoder
    size = decoder.image_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder.vae.encode(torch.empty(1, 3, size, size, device="meta"))
    return float(counter.get_total_flops())


def _without_contents(model: VLVModel) -> VLVModel:
    """The boxes again, on the meta device."""
    encoder, tower, decoder = (
        copy.deepcopy(box).to("meta") for box in (model.encoder, model.text_tower, model.decoder)
    )
    return VLVModel.from_boxes(encoder=encoder, text_tower=tower, decoder=decoder)
