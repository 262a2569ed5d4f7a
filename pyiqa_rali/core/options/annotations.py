"""Options as dataclasses: the annotations of the fields say what a value may be."""

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen, MultipleOf

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.options.values import Sparse, python_value

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Section = TypeVar('Section', bound='DataclassInstance')
ROOT = 'options'  # the name of a whole option file in messages

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2 ** 32)]  # what NumPy takes
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]


def check_choice(option: str, value: Any, allowed: Collection[Any], also: str = '') -> None:
    """Raise OptionError unless the value is one of those allowed; for choices that no annotation can express.

    Args:
        option: what the message calls the value.
        value: what was given.
        allowed: the choices.
        also: what the message adds after them.
    """
    if not any(value == choice and type(value) is type(choice) for choice in allowed):
        told = value if isinstance(value, str) else repr(value)
        raise OptionError(f'{option}: "{told}" is not one of {", ".join(map(_shown, allowed))}{also}.'
                          f'{did_you_mean(told, map(_shown, allowed))}')


def from_known_keys(cls: type[Section], values: Mapping[str, Any], section: str = ROOT) -> Section:
    """Build a dataclass from plain values; its annotations say what it may contain.

    `Literal` is a choice; `Annotated` with the constraints of the package annotated-types (`Ge(1)`, `Gt(0)`, `MinLen(1)`)
    is a bound; fields that are dataclasses or dictionaries are sections, which may be empty; the elements of lists, tuples and
    dictionaries are checked one by one. None passes only where the annotation allows it; a whole number passes where it says
    `float`. Numbers must be finite everywhere.

    Args:
        cls: the dataclass.
        values: by the names of its fields.
        section: its name in messages; `ROOT` for a whole option file, whose sections go by their own names.

    Raises:
        OptionError: a key is unknown or missing, or a value cannot be used; the message names it by its path.
    """
    if not isinstance(values, Mapping):
        raise OptionError(f'{section}: {values!r} must be a section with keys.')
    items = {item.name: item for item in dataclasses.fields(cls) if item.init}
    for key in values:
        if key not in items:
            raise OptionError(f'{section}: unknown key "{key}"; known are {", ".join(items)}.{did_you_mean(key, items)}')
    missing = [name for name, item in items.items() if name not in values
               and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING]
    if missing:
        raise OptionError(f'{section}: {", ".join(missing)} must be given.')
    hints = _hints(cls)
    typed = {key: _read(value, hints[key], key if section == ROOT else f'{section}: {key}') for key, value in values.items()}
    try:
        made = cls(**typed)
    except OptionError as error:  # of a check between the fields
        raise OptionError(str(error) if section == ROOT else f'{section}: {error}') from error
    if isinstance(made, Sparse):
        made._named = frozenset(values)
    return made


def checked(options: Section, section: str = ROOT) -> Section:
    """Return a copy of options that were made in Python, checked as if they came from a file.

    Raises:
        OptionError: a value cannot be used.
    """
    return _read(options, type(options), section)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _read(value: Any, hint: Any, option: str, also: str = '') -> Any:
    """Return a value as its annotation requires it.

    Args:
        value: plain, or a dataclass.
        hint: the annotation.
        option: what messages call the value.
        also: what else is allowed, for messages: ', or ~' where None may.
    """
    kind: Any = typing.get_origin(hint) or hint
    arguments = typing.get_args(hint)
    if kind is Annotated:
        return _bounded(_read(value, arguments[0], option, also), hint.__metadata__, option, also)
    if kind in (typing.Union, types.UnionType):
        return _read_union(value, arguments, option)
    if kind is Literal:
        check_choice(option, value, arguments, also)
        return value
    if dataclasses.is_dataclass(kind):
        return _read_section(value, kind, option)
    value = {} if value is None and kind is dict else python_value(value)
    if not _fits(value, hint):
        raise OptionError(f'{option}: {value!r} must be {_in_words(hint)}{also}.')
    if kind in (list, tuple):
        return kind(_elements(value, kind, arguments, option))
    if isinstance(value, Mapping):
        of_value = arguments[1] if arguments else Any
        for key in value:
            _check_key(key, arguments[0] if arguments else Any, option)
        return {key: _read(each, of_value, f'{option}: {key}') for key, each in value.items()}
    if isinstance(value, list):  # where anything is allowed
        return [_read(each, Any, f'{option}: element {number}') for number, each in enumerate(value, 1)]
    return _number(value, kind, option)


def _read_section(value: Any, cls: Any, option: str) -> Any:
    """Return a value as a dataclass; a class with a method `kind_of` says which of its subclasses plain values are of."""
    if isinstance(value, cls):
        made = {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
        return from_known_keys(type(value), value.given() if isinstance(value, Sparse) else made, option)
    value = {} if value is None else value
    if hasattr(cls, 'kind_of') and isinstance(value, Mapping):
        cls = cls.kind_of(value)
    return from_known_keys(cls, value, option)


def _check_key(key: Any, hint: Any, option: str) -> None:
    if typing.get_origin(hint) is Literal:
        check_choice(option, key, typing.get_args(hint))
    elif hint is str and not isinstance(key, str):
        raise OptionError(f'{option}: the key {key!r} must be of type str. Put it into quotes.')


def _read_union(value: Any, branches: tuple[Any, ...], option: str) -> Any:
    """Read a value by the branch whose type it has, so that messages name that branch's choices and bounds first."""
    if value is None and type(None) in branches:
        return None
    others = [branch for branch in branches if branch is not type(None)]
    fitting = [branch for branch in others if _fits(python_value(value), branch)]
    exact = [branch for branch in fitting if branch is type(value)]  # a whole number where int and float are allowed
    chosen = next(iter(exact or fitting or others))
    return _read(value, chosen, option, ''.join(f', or {_in_words(branch)}' for branch in branches if branch is not chosen))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the outer type of an annotation, whatever its elements and bounds are."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Annotated:
        return _fits(value, arguments[0])
    if kind is Literal:
        return any(type(value) is type(choice) for choice in arguments)
    if kind is Any:
        return True
    if dataclasses.is_dataclass(kind):
        return isinstance(value, kind | Mapping)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if kind in (list, tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, Mapping if kind is dict else kind)


def _elements(values: Sequence[Any], kind: type, arguments: tuple[Any, ...], option: str) -> list[Any]:
    """Return the elements of a list or tuple, each as its annotation requires it; a tuple's length is part of that."""
    hints = [arguments[0] if arguments else Any] * len(values)
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(values) != len(arguments):
            raise OptionError(f'{option}: {list(values)} must have {len(arguments)} elements.')
        hints = list(arguments)
    return [_read(value, hint, f'{option}: element {number}')
            for number, (value, hint) in enumerate(zip(values, hints, strict=True), 1)]


def _number(value: Any, kind: type, option: str) -> Any:
    """Return a number as the annotation requires it, and anything else as it is."""
    if kind is float and isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            value = math.inf
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f'{option}: {value} must be a finite number.')
    return value


def _bounded(value: Any, metadata: tuple[Any, ...], option: str, also: str) -> Any:
    """Return a value within the bounds of its annotation."""
    bounds = [bound for each in metadata for bound in (each if isinstance(each, GroupedMetadata) else [each])]
    for bound in bounds:
        if isinstance(bound, MinLen) and len(value) < bound.min_length:
            raise OptionError(f'{option}: must hold at least {"one" if bound.min_length == 1 else bound.min_length}{also}.')
        if isinstance(bound, MaxLen) and len(value) > bound.max_length:
            raise OptionError(f'{option}: must hold at most {bound.max_length}{also}.')
        if isinstance(bound, MultipleOf) and value % bound.multiple_of:
            raise OptionError(f'{option}: {value} must be a multiple of {bound.multiple_of}{also}.')
        if not _within(value, bound):
            raise OptionError(f'{option}: {value} must be {_limits(bounds)}{also}.')
    return value


def _within(value: Any, bound: Any) -> bool:
    for kind, name, holds in ((Ge, 'ge', operator.ge), (Gt, 'gt', operator.gt), (Le, 'le', operator.le),
                              (Lt, 'lt', operator.lt)):
        if isinstance(bound, kind):
            return holds(value, getattr(bound, name))
    return True


def _limits(bounds: list[Any]) -> str:
    """Return bounds in words: 'at least 1', 'between 0 and 1' (both excluded), 'in [0, 1)'."""
    low = next((bound for bound in bounds if isinstance(bound, Ge | Gt)), None)
    high: Any = next((bound for bound in bounds if isinstance(bound, Le | Lt)), None)
    if low is None:
        return f'at most {high.le}' if isinstance(high, Le) else f'below {high.lt}'
    if high is None:
        return f'at least {low.ge}' if isinstance(low, Ge) else f'above {low.gt}'
    if isinstance(low, Gt) and isinstance(high, Lt):
        return f'between {low.gt} and {high.lt}'
    begin = f'[{low.ge}' if isinstance(low, Ge) else f'({low.gt}'
    return f'in {begin}, {high.le}]' if isinstance(high, Le) else f'in {begin}, {high.lt})'


def _shown(choice: Any) -> str:
    """Return a choice as it is written in an option file."""
    return '~' if choice is None else str(choice).lower() if isinstance(choice, bool) else str(choice)


def _in_words(hint: Any) -> str:
    """Return what an annotation allows, without its bounds."""
    kind = typing.get_origin(hint) or hint
    if kind is Annotated:
        return _in_words(typing.get_args(hint)[0])
    if kind is Literal:
        return ' or '.join(map(_shown, typing.get_args(hint)))
    if kind is type(None):
        return '~'
    if dataclasses.is_dataclass(kind) or kind is dict:
        return 'a section with keys'
    return f'of type {"list" if kind is tuple else getattr(kind, "__name__", kind)}'
