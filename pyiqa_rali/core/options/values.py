"""Options as plain values: what files hold, and what runs that are resumed are compared by."""

import dataclasses
import numbers
import os
import typing
from collections.abc import Mapping
from typing import Any


class Sparse:
    """Base of dataclasses whose keys mean something by being given: only these are written into files, and compared."""

    _named: frozenset[str] = frozenset()  # those that a file gave, which may be what the default is too

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
    """Return a path as its string, and numbers of NumPy as Python's: what options made in Python may hold beside a file's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) in (bool, int, float) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)
