"""Arguments of transformers and diffusers: those of downloads and uploads, those that are of no
use to a VLV, and those that it refuses.

Both libraries hand more arguments to a model than their users wrote, so that an unknown one is no
mistake by itself. It is one where it would change the model.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vlv.checkpoints.hub import DownloadOptions
from vlv.errors import ConfigError

# How files are read and written, which model folders have one way for.
_UNUSED = frozenset(
    {
        "adapter_kwargs",
        "code_revision",
        "low_cpu_mem_usage",
        "max_shard_size",
        "safe_serialization",
        "safety_checker",
        "trust_remote_code",
        "use_fast",
        "use_safetensors",
        "weights_only",
    }
)
_DOWNLOAD = frozenset(one.name for one in fields(DownloadOptions))
_PUBLISHING = frozenset({"commit_message", "create_pr", "private", "revision", "token"})


def download_of(others: dict[str, Any]) -> dict[str, Any]:
    """Take out how files come from the Hub: arguments of `DownloadOptions`."""
    return {name: others.pop(name) for name in _DOWNLOAD & others.keys()}


def publishing_of(others: dict[str, Any]) -> dict[str, Any]:
    """Take out how a model is uploaded: arguments of `vlv.checkpoints.publishing.publish`."""
    return {name: others.pop(name) for name in _PUBLISHING & others.keys()}


def refuse_others(others: Mapping[str, Any]) -> None:
    """Raise ConfigError for an argument that would change the model, and cannot."""
    for name, value in others.items():
        if name in _UNUSED or name.startswith("_") or value is None or value is False:
            continue
        hint = "; quantization='8bit' or '4bit' quantizes" if "quant" in name else ""
        raise ConfigError(f"a VLV has no use for {name}={value!r}; leave it out{hint}")
