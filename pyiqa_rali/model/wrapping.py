"""Names of tensors as other tools save them: with the prefix of the wrapper that a module was in."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Value = TypeVar('Value')

WRAPPERS = ('module.', '_orig_mod.', 'net.')  # DataParallel and similar, torch.compile, pyiqa's metric
NESTED = ('params', 'state_dict', 'model')  # where tools keep a state dict in a file


def wrapping(names: Iterable[str]) -> str:
    """Return the prefix of wrappers that all names have; empty when there is none, or some are not strings.

    Example:
        >>> wrapping(['module._orig_mod.a', 'module._orig_mod.b']), wrapping(['module.a', 'b'])
        ('module._orig_mod.', '')
    """
    names = list(names)
    prefix = ''
    while names and all(isinstance(name, str) for name in names):
        found = next((each for each in WRAPPERS if all(name.startswith(prefix + each) for name in names)), None)
        if found is None:
            break
        prefix += found
    return prefix


def unwrapped(state: Mapping[str, Value]) -> dict[str, Value]:
    """Return a state dict without the prefix of its module's wrapper."""
    prefix = wrapping(state)
    return {name.removeprefix(prefix): value for name, value in state.items()} if prefix else dict(state)


def state_dict_in(content: Any) -> dict[str, Any] | None:
    """Return the state dict that a file of torch holds, by itself or under one of `NESTED`, unwrapped; None without one."""
    if not isinstance(content, Mapping):
        return None
    for key in NESTED:
        if isinstance(content.get(key), Mapping):
            return unwrapped(content[key])
    return unwrapped(content)
