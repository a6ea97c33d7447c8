"""From a config file to its bill: the stage is found, and its pace measured where wished."""

import tempfile
from dataclasses import fields, replace
from pathlib import Path

from vlv.checkpoints.memory import free_memory
from vlv.errors import ConfigError
from vlv.models.precision import device_name
from vlv.training.accelerator import computing_device, forget_accelerator
from vlv.training.automatic_checkpointing import settled
from vlv.training.config import read_yaml
from vlv.training.cost.bill import Bill, Durations, Pace, make_bill
from vlv.training.cost.gpus import GPU, gpu_of_driver
from vlv.training.loop import train
from vlv.training.memory import GIB
from vlv.training.provenance import read_record
from vlv.training.registry import STAGES, build_stage, stage_config
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.throughput import WARM_UP

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
        _check_device(gpu)
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
    pace = _measure_pace(name, path, overrides, measure)
    reached = bill.mfu
    if gpu is not None:
        rate = bill.work.sample_flops * bill.work.samples_per_step / processes / pace.clock.step
        reached = rate / gpu.peak(bill.precision)
    return replace(bill, pace=pace, mfu=reached)


def _stage_of(path: Path, overrides: list[str]) -> str:
    """The stage of a config, by its fields, or else by the beginning of its file's name."""
    named_fields = read_yaml(path).keys() | {override.partition("=")[0] for override in overrides}
    named = [stage for stage in STAGES if path.stem.startswith(stage)]
    if named:
        return named[0]
    if "stage1" in named_fields:
        return "stage2"
    if named_fields & {"initial_model", "decoder"}:
        return "stage1"
    raise ConfigError(f"the fields of {path} do not say which stage it is of; give --stage")


def _measure_pace(stage: str, path: Path, overrides: list[str], steps: int) -> Pace:
    """Run so many steps of a config after a warm-up, in one process, with one validation, one
    checkpoint and an export, in a temporary folder that is removed.

    Raises:
        VLVError: as training does.
    """
    with tempfile.TemporaryDirectory(prefix="vlv-cost-") as folder:
        changes = [
            f"output_dir={folder}/run",
            f"max_train_steps={WARM_UP + steps}",
            # Twice: the first validation of a process prepares more than the others.
            f"validation_steps={WARM_UP + steps - 1}",
            f"checkpointing_steps={WARM_UP + steps}",
            *("report_to=none", "patience=null", "max_hours=null", "max_cost_usd=null"),
            "resume_from_checkpoint=null",
        ]
        record = read_record(train(build_stage(stage, path, [*overrides, *changes])))
    phases = record["phases"]
    return Pace(
        steps=phases["step"]["count"],
        device=record["device"]["name"],
        clock=_durations(phases, "seconds"),
        cpu=_durations(phases, "cpu_seconds"),
    )


def _durations(phases: dict[str, dict[str, float]], clock: str) -> Durations:
    names = (field.name for field in fields(Durations))
    return Durations(**{name: phases[name][clock] / phases[name]["count"] for name in names})


def _check_device(gpu: GPU) -> None:
    """Raises ConfigError where this machine computes on something else than `gpu`."""
    device = computing_device()
    name = device_name(device)
    # The run that is measured makes its own.
    forget_accelerator()
    if device.type == "cpu" or gpu_of_driver(name) != gpu:
        raise ConfigError(
            f"--measure runs on this machine, which computes on {name} and not on {gpu.name}; "
            "leave out --gpu for the time on this machine, or --measure for an assumed share of "
            "the GPU's peak"
        )
