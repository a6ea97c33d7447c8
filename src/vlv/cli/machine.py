"""What the command line needs to know of the machine it runs on."""

import os


def usable_cores() -> int:
    """Cores that this process may use, where the system tells; else all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
