"""What a row of the speedrun changes beside fields of `Stage1Config`. Knows no loop and no cost."""

from typing import Literal

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vlv.training.objectives.denoising import batch_latents
from vlv.training.objectives.stage1 import Stage1Objective
from vlv.training.samples.source import Batch
from vlv.training.stages.stage1 import Stage1Config
from vlv.training.state import TrainingState
from vlv.world.language import short_caption
from vlv.world.scene import sample_scene

# Captions whose mean is taken, and pictures that phi is fitted on.
_CAPTIONS, FITTED_ON = 256, 32


class Levers(BaseModel):
    """What a row changes that is no field of `Stage1Config`.

    cached_latents: the VAE runs once for each picture; in a run that sees a picture once nothing is
    saved. muon_learning_rate: matrices inside the transformers are trained by Muon at this rate,
    all else by AdamW at `learning_rate`. phi_at_text: z begins as token embeddings of the text
    tower, see `begin_at_text`. frozen_vision_steps: so long the vision tower does not train.
    min_snr: weight of a noise level, min(SNR, gamma) / (SNR + 1), for a decoder that predicts v.
    rates: factors of `learning_rate` for parts of the encoder. linear_decay: the rate falls
    linearly over this last share of the run, and is constant before.
    """

    model_config = ConfigDict(extra="forbid")

    cached_latents: bool = False
    muon_learning_rate: float | None = Field(None, gt=0)
    phi_at_text: Literal["mean", "empty", "captions"] | None = None
    frozen_vision_steps: int = Field(0, ge=0)
    min_snr: float | None = Field(None, gt=0)
    rates: dict[str, float] = {}
    linear_decay: float | None = Field(None, gt=0, le=1)


@torch.no_grad()
def begin_at_text(objective: Stage1Objective, kind: str, images: NDArray[np.uint8]) -> None:
    """Phi's last layer is fitted so that z begins as token embeddings of the text tower: their mean
    at every place, or by place those of the empty text, or their means over captions of scenes
    that no run sees as pairs. images: of `FITTED_ON` scenes.
    """
    tower, encoder = objective.text_tower, objective.encoder
    _, act, last = encoder.phi
    table = tower.clip.embeddings.token_embedding.weight
    queries = encoder.settings.num_queries
    if kind == "mean":
        wanted = table.mean(0).expand(queries, -1)
    else:
        rng = np.random.default_rng(0)
        texts = [""]
        if kind == "captions":
            texts = [short_caption(sample_scene(seed), rng) for seed in range(_CAPTIONS)]
        wanted = tower.token_embeddings(texts)[0].mean(0)[:queries]
    seen: list[Tensor] = []
    handle = act.register_forward_hook(lambda _module, _given, made: seen.append(made))
    encoder(encoder.preprocess_uint8(torch.from_numpy(images.copy())))
    handle.remove()
    inner = seen[0].mean(0)  # (Q, D)
    # Ridge regression, so that what differs between images stays small beside it.
    centre = inner.mean(0)
    gap, aim = inner - centre, wanted - wanted.mean(0)
    ridge = gap.square().mean() * len(gap)
    square = gap.T @ gap
    weight = torch.linalg.solve(square + 0.01 * ridge * torch.eye(len(square)), gap.T @ aim).T
    last.weight.mul_(0.1).add_(weight)
    last.bias.copy_(wanted.mean(0) - last.weight @ centre)


def weighted_loss(objective: Stage1Objective, batch: Batch, gamma: float) -> Tensor:
    """The stage-1 loss with min-SNR weights, whose mean is 1."""
    decoder = objective.decoder
    assert decoder is not None  # stage 1 always denoises
    c = objective.text_tower(objective.embeddings(batch))
    timesteps = decoder.noise_process.timesteps(batch["u"]).flatten()
    losses = decoder.denoising_loss(
        batch_latents(decoder, batch).flatten(0, 1),
        c.repeat_interleave(batch["u"].shape[1]),
        batch["noise"].flatten(0, 1),
        timesteps,
    )
    alphas = decoder.scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    weights = snr.clamp(max=gamma) / (snr + 1)
    return (losses * weights).mean() / weights.mean()


def optimizers(
    state: TrainingState, objective: Stage1Objective, config: Stage1Config, levers: Levers
) -> list[torch.optim.Optimizer]:
    """The state's own AdamW, or one with rates by part and Muon beside it for inner matrices."""
    adam = {
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    if levers.muon_learning_rate is None and not levers.rates:
        return [state.optimizer]
    parts = {id(one): name for name, part in objective.encoder.parts().items() for one in part}
    muon = []
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, parameter in state.parameters.items():
        if levers.muon_learning_rate is not None and _is_inner_matrix(name, parameter):
            muon.append(parameter)
        else:
            factor = levers.rates.get(parts[id(parameter)], 1.0)
            by_rate.setdefault(factor, []).append(parameter)
    groups = [{"params": own, "lr": config.learning_rate * rate} for rate, own in by_rate.items()]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, **adam)]
    if muon:
        made.append(
            torch.optim.Muon(
                muon,
                lr=levers.muon_learning_rate,
                weight_decay=config.adam_weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return made


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon is meant for it: a matrix between activations, no table and no output layer."""
    outer = ("embed", "queries", "phi.2", "image_projection")
    return parameter.ndim == 2 and not any(part in name for part in outer)


def schedule(
    optimizer: torch.optim.Optimizer, config: Stage1Config, levers: Levers
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over the whole run."""
    if levers.linear_decay is None:
        return get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )
    warmup, total, share = config.lr_warmup_steps, config.max_train_steps, levers.linear_decay

    def factor(step: int) -> float:
        left = (total - step) / (share * total)
        return max(0.0, min(1.0, left, (step + 1) / (warmup + 1)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
