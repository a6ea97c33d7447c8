"""From a config file to its bill: the stage is found, and its pace measured where wished."""

from dataclasses import replace
from pathlib import Path

from vlv.checkpoints.memory import free_memory
from vlv.errors import ConfigError
from vlv.training.accelerator import computing_device
from vlv.training.automatic_checkpointing import settled
from vlv.training.config import read_yaml
from vlv.training.cost.bill import Bill, make_bill
from vlv.training.cost.gpus import GPU
from vlv.training.memory import GIB
from vlv.training.pace import check_device, measure_pace
from vlv.training.registry import STAGES, stage_config
from vlv.training.stages.encoding import EncoderStageConfig

_COUNTED = ("stage1", "stage2")


def price_run(
    path: Path,
    overrides: list[str],
    *,
    stage: str | None = None,
    gpu: GPU | None = None,
    processes: int = 1,
    price: float | None = None,
    mfu: float | None = None,
    caption_tokens: int | None = None,
    encoder_image_size: int | None = None,
    measure: int | None = None,
) -> Bill:
    """The bill of the run that `path` and `overrides` describe; see `make_bill`.

    stage: None finds it. measure: so many steps are run on this machine.

    Raises:
        ConfigError: the config is wrong, or of another stage than 1 and 2; or --measure is asked of
            a GPU that this machine does not have.
    """
    name = stage or _stage_of(path, overrides)
    if name not in _COUNTED:
        raise ConfigError(
            f"stage {name!r} has no bill; those that have are {' and '.join(_COUNTED)}"
        )
    if measure is not None and gpu is not None:
        check_device(gpu)
    if measure is not None and encoder_image_size is not None:
        raise ConfigError(
            "--measure runs the model as it is; leave out --encoder-image-size, or --measure"
        )
    config, _ = stage_config(name, path, overrides)
    assert isinstance(config, EncoderStageConfig)  # both stages are
    reason = ""
    if config.gradient_checkpointing == "auto":
        room = free_memory(computing_device()) if gpu is None else int(gpu.memory * GIB)
        config, reason = settled(config, room, processes, encoder_image_size)
    bill = make_bill(
        name,
        config,
        gpu=gpu,
        processes=processes,
        price=price,
        mfu=mfu,
        caption_tokens=caption_tokens,
        encoder_image_size=encoder_image_size,
    )
    if reason:
        bill.assumed.append(f"{reason} on {'this machine' if gpu is None else gpu.name}")
    if measure is None:
        return bill
    pace = measure_pace(name, path, overrides, measure)
    reached = bill.mfu
    if gpu is not None:
        rate = bill.work.sample_flops * bill.work.samples_per_step / processes / pace.clock.step
        reached = rate / gpu.peak(bill.precision)
    return replace(bill, pace=pace, mfu=reached)


def _stage_of(path: Path, overrides: list[str]) -> str:
    """The stage of a config, by its fields, or else by the beginning of its file's name."""
    fields = read_yaml(path).keys() | {override.partition("=")[0] for override in overrides}
    named = [stage for stage in STAGES if path.stem.startswith(stage)]
    if named:
        return named[0]
    if "stage1" in fields:
        return "stage2"
    if fields & {"initial_model", "decoder"}:
        return "stage1"
    raise ConfigError(f"the fields of {path} do not say which stage it is of; give --stage")
