"""Options as plain values: what files hold, and what resumed runs are compared by."""

import dataclasses
import numbers
import os
import typing
from collections.abc import Mapping
from typing import Any


class Sparse:
    """Base of dataclasses for which it matters whether a key was given: only given keys are written into files and compared."""

    _named: frozenset[str] = frozenset()  # those that a file gave, even if they equal the default

    def given(self) -> dict[str, Any]:
        """Return the values that were given, as plain ones."""
        return {item.name: plain(value) for item in dataclasses.fields(typing.cast(Any, self))
                if (value := getattr(self, item.name)) != _default(item) or item.name in self._named}


def _default(item: dataclasses.Field) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def plain(options: Any) -> Any:
    """Return options as plain values, as they are written into files."""
    if isinstance(options, Sparse):
        return options.given()
    if dataclasses.is_dataclass(options):
        return {item.name: plain(getattr(options, item.name)) for item in dataclasses.fields(options)}
    if isinstance(options, Mapping):
        return {key: plain(value) for key, value in options.items()}
    return [plain(value) for value in options] if isinstance(options, list | tuple) else python_value(options)


def python_value(value: Any) -> Any:
    """Return a path as a string and NumPy's numbers as Python's: options made in Python may hold both."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) in (bool, int, float) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)
