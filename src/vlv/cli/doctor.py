"""`vlv doctor`: what this machine has, and what is missing."""

import json
import os
import platform
from importlib import metadata
from typing import Any

import typer

from vlv.cli.common import usable_cores
from vlv.cli.options.files import JsonOption
from vlv.cli.options.model import DEFAULT_MODEL
from vlv.version import __version__


def doctor(as_json: JsonOption = False) -> None:
    """Show versions, devices, memory, threads, models, and what is missing.

    The exit code is 1 if something that vlv needs is missing.
    """
    report = examine()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(report)
    if report["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Everything that `vlv doctor` reports, as JSON values; `problems` lists what to repair."""
    packages, extras = _packages()
    models = _models()
    problems = [] if packages else ["vlv is not installed; run: pip install -c constraints.txt ."]
    problems += [
        f"{name} {package['installed'] or 'is missing'}; vlv needs {name}{package['needed']}"
        for name, package in packages.items()
        if not package["ok"]
    ]
    problems += [
        f"the model {name} cannot be used: {model['problem']}"
        for name, model in models.items()
        if model["problem"]
    ]
    return {
        "vlv": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "extras": extras,
        "devices": _devices(),
        "memory": _memory(),
        "threads": _threads(),
        "models": models,
        "problems": problems,
    }


def _packages() -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """The required packages, and for each extra the packages of it that are not installed.

    Both empty when vlv itself runs from its sources without being installed.
    """
    from packaging.requirements import Requirement

    required: dict[str, dict[str, Any]] = {}
    extras: dict[str, list[str]] = {}
    if _version("vlv") is None:
        return required, extras
    for line in metadata.requires("vlv") or []:
        requirement = Requirement(line)
        installed = _version(requirement.name)
        extra = _extra(requirement)
        if extra is None:
            required[requirement.name] = {
                "installed": installed,
                "needed": str(requirement.specifier),
                "ok": installed is not None and requirement.specifier.contains(installed, True),
            }
        else:
            missing = extras.setdefault(extra, [])
            if installed is None:
                missing.append(requirement.name)
    return required, extras


def _extra(requirement: Any) -> str | None:
    """The extra that a requirement belongs to."""
    names = metadata.metadata("vlv").get_all("Provides-Extra") or []
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return None
    return next((name for name in names if requirement.marker.evaluate({"extra": name})), None)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    """The CPU and every accelerator that torch can use: memory in bytes, and the number type that
    `mixed_precision: auto` computes in.
    """
    devices: list[dict[str, Any]] = [{"device": "cpu", "name": platform.machine()}]
    try:
        import torch
    except ImportError:
        return devices  # `problems` names torch
    from vlv.models.precision import computes_bfloat16, device_name

    devices[0]["name"] = device_name(torch.device("cpu"))
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        devices.append({"device": f"cuda:{index}", "name": name, "free": free, "total": total})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU"})
    for device in devices:
        able = computes_bfloat16(torch.device(device["device"]))
        device["auto"] = "bfloat16" if able else "float32"
    return devices


def _memory() -> dict[str, int] | None:
    try:
        import psutil
    except ImportError:
        return None
    memory = psutil.virtual_memory()
    return {"total": memory.total, "available": memory.available}


def _threads() -> dict[str, Any]:
    threads: int | None = None
    try:
        import torch
    except ImportError:
        pass  # `problems` names torch
    else:
        threads = torch.get_num_threads()
    return {
        "cores": usable_cores(),
        "torch": threads,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def _models() -> dict[str, dict[str, str | None]]:
    """Where the embedded model, and the one `VLV_MODEL` names, resolve to; downloads nothing."""
    from vlv.checkpoints.hub import EMBEDDED, is_hub_id, resolve
    from vlv.checkpoints.inspection import inspect_model
    from vlv.checkpoints.parts import MANIFEST_FILE
    from vlv.errors import CheckpointError

    found: dict[str, dict[str, str | None]] = {}
    for name in dict.fromkeys([*EMBEDDED, os.environ.get("VLV_MODEL") or DEFAULT_MODEL]):
        found[name] = {"folder": None, "problem": None, "note": None}
        if name in EMBEDDED or os.path.isdir(name):
            try:
                folder = resolve(name)
                if (folder / MANIFEST_FILE).is_file():  # and not weights of the authors
                    inspect_model(folder)
                found[name]["folder"] = str(folder)
            except CheckpointError as error:
                found[name]["problem"] = str(error)
        elif is_hub_id(name):
            found[name]["note"] = "an id on the Hub"
        else:
            found[name]["problem"] = "it is no folder here, and no Hub id (owner/name) either"
    return found


def _print(report: dict[str, Any]) -> None:
    rows = [("vlv", f"{report['vlv']}, Python {report['python']}, {report['platform']}")]
    for name, package in report["packages"].items():
        wrong = "" if package["ok"] else f"  <- vlv needs {name}{package['needed']}"
        rows.append((name, f"{package['installed'] or 'missing'}{wrong}"))
    for name, missing in report["extras"].items():
        what = f"missing: {', '.join(missing)}" if missing else "installed"
        rows.append((f"extra {name}", what))
    for device in report["devices"]:
        free = f", {device['free'] / 1e9:.1f} GB free" if "free" in device else ""
        auto = f", mixed precision in {device['auto']}" if "auto" in device else ""
        rows.append((device["device"], f"{device['name']}{free}{auto}"))
    if memory := report["memory"]:
        gigabytes = {name: size / 1e9 for name, size in memory.items()}
        rows.append(("memory", "{available:.1f} of {total:.1f} GB available".format(**gigabytes)))
    threads = report["threads"]
    used = f"torch uses {threads['torch']} on " if threads["torch"] else ""
    rows.append(("threads", f"{used}{threads['cores']} cores"))
    for name, model in report["models"].items():
        rows.append((f"model {name}", model["folder"] or model["note"] or "cannot be used"))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:{width}}  {text}")
    for problem in report["problems"]:
        typer.echo(f"problem: {problem}")
