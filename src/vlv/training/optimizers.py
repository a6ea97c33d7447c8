"""Optimizers of a run: which parameters they group together, at which learning rates.

Knows the parameters of an objective and a config; knows no stage and no checkpoint. Whatever a
config says, a run has one `torch.optim.Optimizer`, whose state is tensors by parameter.

Sources: AdamW, arXiv 1711.05101; in 8 bits, arXiv 2110.02861; Muon, in the variant that keeps
AdamW's learning rates, arXiv 2502.16982, section 2.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlv.errors import ConfigError
from vlv.training.config import TrainingConfig
from vlv.training.objectives.objective import Objective
from vlv.training.trainable_parameters import COLLECTIVE

LABEL = "label"
"""The key of a group of parameters that holds the name of its part: "" for the run's own rate."""

# Bitsandbytes keeps the moments of smaller tensors in float32; of others so many share a scale.
_SMALLEST_8_BIT, _BLOCK_8_BIT = 4096, 256


@dataclass(frozen=True)
class _Kind:
    """What parameters have to share to be in one group."""

    label: str
    rate: float
    decay: float
    muon: bool


def make_optimizer(objective: Objective, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a run on its objective's trainable parameters. Without any of the settings
    that divide them they are one group, in the objective's order.

    Raises:
        ConfigError: `optimizer` needs a package that is not installed, or has nothing to work on.
    """
    groups: dict[_Kind, list[nn.Parameter]] = {}
    kinds = _kinds(objective, config)
    for parameter in objective.trainable().values():
        groups.setdefault(kinds[id(parameter)], []).append(parameter)
    if config.optimizer == "muon":
        return _muon(groups, config)
    described = [_group(kind, parameters) for kind, parameters in groups.items()]
    if config.optimizer == "adamw8bit":
        return _adamw_8bit(described, config)
    return torch.optim.AdamW(described, **_adamw_settings(config))


def parameter_names(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> list[str]:
    """Names of the optimizer's parameters in its own order, which is that of its `state_dict`."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def learning_rates(optimizer: Any) -> dict[str, float]:
    """The current learning rates, as they are logged: `learning_rate` of the run, and
    `learning_rate/{part}` of each part that has its own.
    """
    rates = {}
    for group in optimizer.param_groups:
        label = group[LABEL]
        rates[f"learning_rate/{label}" if label else "learning_rate"] = group["lr"]
    return rates


def moment_bytes(objective: Objective, config: TrainingConfig) -> dict[str, float]:
    """Bytes of the optimizer's moments for an element of each trainable parameter, by its name."""
    kinds = _kinds(objective, config)

    def of(parameter: nn.Parameter) -> float:
        if kinds[id(parameter)].muon:
            return 4.0
        if config.optimizer == "adamw8bit" and parameter.numel() >= _SMALLEST_8_BIT:
            return 2 * (1 + 4 / _BLOCK_8_BIT)
        return 8.0

    return {name: of(parameter) for name, parameter in objective.trainable().items()}


def _group(kind: _Kind, parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    return {
        "params": list(parameters),
        "lr": kind.rate,
        "weight_decay": kind.decay,
        LABEL: kind.label,
    }


def _kinds(objective: Objective, config: TrainingConfig) -> dict[int, _Kind]:
    """The kind of each trainable parameter, by its id."""
    labels = _labels(objective.parts(), config.rates_of_parts())
    matrices = _matrices(objective)
    hidden = matrices - _heads(objective) if config.optimizer == "muon" else set()
    kinds = {}
    for parameter in objective.trainable().values():
        label, rate = labels.get(id(parameter), ("", config.learning_rate))
        decays = config.weight_decay_on == "all" or id(parameter) in matrices
        decay = config.adam_weight_decay if decays else 0.0
        kinds[id(parameter)] = _Kind(label, rate, decay, id(parameter) in hidden)
    return kinds


def _labels(
    parts: Mapping[str, Sequence[nn.Parameter]], rates: Mapping[str, float]
) -> dict[int, tuple[str, float]]:
    """The part and the rate of each parameter that has a rate of its own. A name of one part goes
    before a name of several.
    """
    found = {}
    for name in sorted(rates, key=lambda name: name not in COLLECTIVE):
        for part in COLLECTIVE.get(name, (name,)):
            found.update({id(parameter): (name, rates[name]) for parameter in parts[part]})
    return found


_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


def _matrices(module: nn.Module) -> set[int]:
    """Ids of the weights of linear layers and convolutions. Not among them: norms, biases,
    embeddings (positions and queries too), and a head that shares its weights with embeddings.
    """
    weights = {id(one.weight) for one in module.modules() if isinstance(one, _WEIGHTED)}
    embeddings = {id(one.weight) for one in module.modules() if isinstance(one, nn.Embedding)}
    return weights - embeddings


def _heads(module: nn.Module) -> set[int]:
    """Ids of weights that Muon leaves to AdamW: those that are no matrices, and of the heads over
    a vocabulary.
    """
    heads = {id(p) for p in module.parameters() if p.ndim != 2}
    for one in module.modules():
        head = one.get_output_embeddings() if isinstance(one, PreTrainedModel) else None
        if head is not None:
            heads.add(id(head.weight))
    return heads


def _adamw_settings(config: TrainingConfig) -> dict[str, Any]:
    return {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }


def _adamw_8bit(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.Optimizer:
    """Bitsandbytes' AdamW, whose moments are 8 bits each; those of small tensors stay float32."""
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            "optimizer: adamw8bit needs bitsandbytes: pip install 'vlv[quantization]', or set "
            "optimizer: adamw"
        ) from error

    class FlatAdamW8bit(AdamW8bit):
        """Its state is tensors by parameter: the library nests them one level deeper."""

        def state_dict(self) -> dict[str, Any]:
            return torch.optim.Optimizer.state_dict(self)

        def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
            # A checkpoint holds the count of steps as a tensor; the library counts in an int.
            state = {
                index: {**fields, "step": int(fields["step"])} if "step" in fields else fields
                for index, fields in state_dict["state"].items()
            }
            super().load_state_dict({**state_dict, "state": state}, move_to_device)

    made: torch.optim.Optimizer = FlatAdamW8bit(groups, **_adamw_settings(config))
    return made


def _muon(groups: dict[_Kind, list[nn.Parameter]], config: TrainingConfig) -> torch.optim.Optimizer:
    hidden = [_group(kind, parameters) for kind, parameters in groups.items() if kind.muon]
    rest = [_group(kind, parameters) for kind, parameters in groups.items() if not kind.muon]
    if not hidden:
        raise ConfigError(
            "optimizer: muon has nothing to do: no weight of a linear layer trains; set "
            "optimizer: adamw"
        )
    # Updates as large as AdamW's, so that its learning rates and its weight decay stay right.
    muon = torch.optim.Muon(
        hidden,
        lr=config.learning_rate,
        weight_decay=config.adam_weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    if not rest:
        return muon
    return Combined([muon, torch.optim.AdamW(rest, **_adamw_settings(config))])


class Combined(torch.optim.Optimizer):
    """Several optimizers as one: the groups are theirs in order, and so is the state."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = list(parts)
        groups = [group for part in parts for group in part.param_groups]
        # Schedules ask for the defaults of one optimizer: the last, whose settings are the run's.
        super().__init__(groups, dict(parts[-1].defaults))
        self._share()

    def _share(self) -> None:
        """Let the parts work on the groups and on the state of the whole."""
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.param_groups = self.param_groups[start:end]
            part.state = self.state
            start = end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As any optimizer's."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Tensor | None:  # type: ignore[override]
        """A step of each part."""
        if closure is not None:
            raise TypeError("a step of several optimizers takes no closure")
        for part in self._parts:
            part.step()
        return None
