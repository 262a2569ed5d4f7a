"""Users' own rewards: functions of their modules, named by an option file and checked at every call."""

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Real
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError, did_you_mean, first_line

OPTION = 'rewards: functions'


def load_own_reward(name: str) -> Callable[..., list[float | None]]:
    """Return a user's reward function, wrapped so that what it returns is checked.

    Args:
        name: 'module:function'; Python must find the module, in the working folder or installed.

    Raises:
        OptionError: there is no such module or function.
    """
    module_name, _, function_name = name.partition(':')
    if not (module_name and function_name.isidentifier()):
        raise OptionError(f'{OPTION}: "{name}" must be module:function, such as my_rewards:brevity for brevity in '
                          'my_rewards.py.')
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module can raise anything when it is imported
        raise OptionError(f'{OPTION}: "{name}": {module_name} cannot be imported ({type(error).__name__}: '
                          f'{first_line(error)}). Start from the folder that holds {module_name}.py, or install it.') from error
    function = getattr(module, function_name, None)
    if not callable(function) or inspect.iscoroutinefunction(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise OptionError(f'{OPTION}: "{name}": {module_name} has no function {function_name}; it has '
                          f'{", ".join(known) or "none"}.{did_you_mean(function_name, known)}')
    return checked(function, name)


def checked(function: Callable[..., Any], name: str) -> Callable[..., list[float | None]]:
    """Return a reward function that raises OptionError unless it returns a finite number or None for each completion."""
    @functools.wraps(function)
    def reward(completions: list[Any], **columns: Any) -> list[float | None]:
        found = list(function(completions=completions, **columns))
        if len(found) != len(completions):
            raise OptionError(f'{OPTION}: "{name}" returned {len(found)} rewards for {len(completions)} completions. Return '
                              'one for each; None where it does not apply.')
        wrong = [value for value in found if value is not None and not (isinstance(value, Real) and math.isfinite(value))]
        if wrong:
            raise OptionError(f'{OPTION}: "{name}" returned {wrong[0]!r}; each reward must be a finite number, or None where '
                              'it does not apply.')
        return [None if value is None else float(value) for value in found]
    return reward


def own_reward_files(names: Iterable[str]) -> dict[str, Path]:
    """Return the file that defines each function, for the record of what a run depends on."""
    functions = {name: inspect.unwrap(load_own_reward(name)) for name in names}
    return {f'{OPTION}: {name}': Path(inspect.getfile(function)) for name, function in functions.items()}
