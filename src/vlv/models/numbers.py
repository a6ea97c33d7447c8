"""Numbers that callers give, of Python's types or of numpy's."""

import operator
from numbers import Real
from typing import Any

from vlv.errors import ConfigError


def whole_number(name: str, given: Any) -> int:
    """A whole number as Python's. Raises ConfigError for anything else, 2.0 and "2" among it."""
    try:
        return operator.index(given)
    except TypeError as error:
        raise ConfigError(f"{name} must be a whole number, not {given!r}") from error


def real_number(name: str, given: Any) -> float:
    """A number as Python's. Raises ConfigError for anything else."""
    if isinstance(given, int | float):
        return given
    if not isinstance(given, Real):
        raise ConfigError(f"{name} must be a number, not {given!r}")
    return float(given)
