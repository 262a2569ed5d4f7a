"""Errors that users see, and the hint for a mistyped name."""

import difflib
from collections.abc import Iterable


class OptionError(ValueError):
    """An option or argument has a value that cannot be used."""


class DataError(ValueError):
    """An image, a table or a text file cannot be used as it is."""


class CheckpointError(ValueError):
    """A checkpoint file is missing, broken, or not one of ours."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ``' Did you mean "x"?'`` for the closest allowed name, or an empty string.

    Example:
        >>> did_you_mean('temprature', ['temperature', 'seed'])
        ' Did you mean "temperature"?'
    """
    close = difflib.get_close_matches(str(name), [str(candidate) for candidate in allowed], n=1)
    return f' Did you mean "{close[0]}"?' if close else ''


def some(names: Iterable[str], limit: int = 5) -> str:
    """Join the first few names for an error message and count the rest; bytes of a name that are not UTF-8 become escapes.

    Example:
        >>> some(['a', 'b', 'c'], limit=2)
        'a, b (+1 more)'
    """
    names = [str(name).encode('utf-8', 'backslashreplace').decode() for name in names]
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' (+{rest} more)' if rest > 0 else '')


def first_line(error: BaseException) -> str:
    """Return an error as one line: its first, or its class when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
