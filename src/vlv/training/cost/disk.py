"""The disk that a run of stage 1 or 2 needs for what it writes: checkpoints, its best weights, and
the model that it exports. Exact for tensors; tokenizers, logs and pictures are left out, and so are
the images to train on and the caches that are made of them.
"""

from dataclasses import dataclass

import torch

from vlv.checkpoints.components import untied_state
from vlv.training.objectives.encoding import EncoderObjective
from vlv.training.optimizers import moment_bytes
from vlv.training.stages.encoding import EncoderStageConfig


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    checkpoint: int
    """One: weights that train, the optimizer's moments, and the average where one is kept."""
    kept: int
    """How many checkpoints are kept."""
    best: int
    """The best weights, where they are kept: at most those of each kept checkpoint, which stay as
    they were at its step, and those of the run."""
    final: int
    """The exported model."""
    written: int
    """Over the whole run; the best weights are written as often as they get better, which is not
    known."""

    @property
    def peak(self) -> int:
        """The most at any one time: the oldest checkpoint is removed after the newest is
        written.
        """
        return self.kept * self.checkpoint + self.best + max(self.checkpoint, self.final)


def count_disk(config: EncoderStageConfig, objective: EncoderObjective) -> Disk:
    """Count what a config writes; the objective is of the meta device."""
    named, moments = objective.trainable(), moment_bytes(objective, config)
    trainable = sum(4 * p.numel() for p in named.values())
    kept = round(sum(p.numel() * moments[name] for name, p in named.items()))
    checkpoint = trainable * (2 if config.use_ema else 1) + kept
    checkpoints = -(-config.max_train_steps // config.checkpointing_steps)
    final = _model_bytes(objective)
    kept_checkpoints = min(config.checkpoints_total_limit, checkpoints)
    return Disk(
        checkpoint=checkpoint,
        kept=kept_checkpoints,
        best=trainable * _best_files(config, kept_checkpoints),
        final=final,
        written=checkpoints * checkpoint + final,
    )


def _best_files(config: EncoderStageConfig, checkpoints: int) -> int:
    """How many different best weights there are at most; names of the same file take no room."""
    if config.keep_best is None:
        return 0
    validations = -(-config.max_train_steps // config.validation_steps)
    return min(checkpoints + 1, validations)


def _model_bytes(objective: EncoderObjective) -> int:
    """Of the boxes' tensors in float32, as they are exported whatever they were trained in."""
    boxes = [objective.encoder.florence, *objective.text_tower.encoders.values()]
    rest = [objective.encoder.queries, *objective.encoder.phi.parameters()]
    if objective.decoder is not None:
        boxes += [objective.decoder.vae, objective.decoder.denoiser]
    if objective.caption_decoder is not None:
        boxes.append(objective.caption_decoder.lm)
        rest += objective.caption_decoder.psi.parameters()
    tensors = [tensor for box in boxes for tensor in _stored(box)]
    return sum(4 * tensor.numel() for tensor in [*tensors, *rest])


def _stored(box: torch.nn.Module) -> list[torch.Tensor]:
    return list(untied_state(box).values())
