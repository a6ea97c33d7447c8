"""Arguments of transformers and diffusers that are of no use to a VLV, and those that it refuses.

Both libraries hand more arguments to a model than their users wrote, so that an unknown one is no
mistake by itself. It is one where it would change the model.
"""

from collections.abc import Mapping
from typing import Any

from vlv.errors import ConfigError

# How files are found and read, which model folders have one way for.
_UNUSED = frozenset(
    {
        "adapter_kwargs",
        "code_revision",
        "force_download",
        "local_files_only",
        "low_cpu_mem_usage",
        "max_shard_size",
        "proxies",
        "safe_serialization",
        "safety_checker",
        "token",
        "trust_remote_code",
        "use_safetensors",
        "weights_only",
    }
)


def refuse_others(others: Mapping[str, Any]) -> None:
    """Raise ConfigError for an argument that would change the model, and cannot."""
    for name, value in others.items():
        if name in _UNUSED or name.startswith("_") or value is None or value is False:
            continue
        hint = "; quantization='8bit' or '4bit' quantizes" if "quant" in name else ""
        raise ConfigError(f"a VLV has no use for {name}={value!r}; leave it out{hint}")
