"""`vlv train`: one stage of training."""

import logging
from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="key=value: overrides of config fields, such as learning_rate=1e-4 or data.set=photos."
    ),
]


def train(
    stage: Annotated[
        str,
        typer.Argument(
            help="vae, text-to-image, language-model, inspector, stage1, stage2, preferences or "
            "self-training."
        ),
    ],
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of the run.")] = None,
) -> None:
    """Run one stage of training. An interrupted run resumes from its last checkpoint."""
    from vlv.errors import ConfigError
    from vlv.training.config import load_config
    from vlv.training.loop import train as run
    from vlv.training.old_names import STAGES
    from vlv.training.registry import build_stage
    from vlv.training.self_training import SelfTrainingConfig, self_train

    if config is None:
        raise ConfigError("which run? give --config FILE (the mini's are in configs/mini)")
    if stage in STAGES:
        typer.echo(f"vlv: {stage} is deprecated, use {STAGES[stage]}", err=True)
        stage = STAGES[stage]
    show_progress()
    if stage == "self-training":
        typer.echo(str(self_train(load_config(SelfTrainingConfig, config, overrides))))
    else:
        typer.echo(str(run(build_stage(stage, config, overrides))))


def show_progress() -> None:
    """Log to standard error how far long work is."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("vlv").setLevel(logging.INFO)
