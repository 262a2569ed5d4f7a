"""Option files: YAML in pyiqa's style, read strictly and turned into typed options."""

import copy
import dataclasses
import os
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pyiqa_rali.core.errors import OptionError, did_you_mean

Section = TypeVar('Section')


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML with duplicate keys refused and `1e-4` read as a number."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
    if repeated:
        raise OptionError(f'key "{repeated[0]}" stands twice in one section{node.start_mark}. Keep one of them.')
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
_StrictLoader.add_implicit_resolver('tag:yaml.org,2002:float', re.compile(r'^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$'),
                                    list('-+0123456789'))


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Read an option file as plain values.

    Raises:
        OptionError: the file is missing, no mapping, or has a key twice.
    """
    path = Path(path)
    if not path.is_file():
        raise OptionError(f'-opt: {path} is not a file. Give the path of an option file such as options/rali.yml.')
    try:
        values = yaml.load(path.read_text(encoding='utf-8'), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f'-opt: {path} is not valid YAML: {error}') from error
    if not isinstance(values, dict):
        raise OptionError(f'-opt: {path} holds no options.')
    return values


def override(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return the options with `section:key=value` entries applied (pyiqa's --force_yml, without its exec).

    Raises:
        OptionError: an entry has no '=', or names a key that the file does not have.
    """
    values = copy.deepcopy(values)  # in the file's order: the first data set or variant may mean something
    for entry in overrides:
        names, separator, text = entry.partition('=')
        if not separator:
            raise OptionError(f'--force_yml: "{entry}" must be section:key=value.')
        name, left, section = *_next_key(values, names.strip().split(':')), values
        while left:
            section = _existing(section, name, entry)
            name, left = _next_key(section, left)
        _existing(section, name, entry, leaf=True)
        section[name] = yaml.load(text, Loader=_StrictLoader)
    return values


def _next_key(section: dict[str, Any], names: list[str]) -> tuple[str, list[str]]:
    """Return the section's key that the names begin with, and the names behind it; a key may hold colons itself."""
    joined = {':'.join(names[:count]): names[count:] for count in range(len(names), 0, -1)}
    name = next((each for each in joined if each in section), names[0])
    return name, joined[name]


def _existing(section: Any, name: str, entry: str, leaf: bool = False) -> Any:
    if not isinstance(section, dict) or name not in section:
        known = list(section) if isinstance(section, dict) else []
        raise OptionError(f'--force_yml: "{entry}" names "{name}", which the option file does not have. Write the key into '
                          f'the file first.{did_you_mean(name, known)}')
    if not leaf and not isinstance(section[name], dict):
        raise OptionError(f'--force_yml: in "{entry}", "{name}" is a value, not a section.')
    return section[name]


def check_choice(option: str, value: Any, allowed: tuple) -> None:
    """Raise OptionError unless the value is one of those allowed."""
    if value not in allowed:
        names = ', '.join('~' if choice is None else str(choice) for choice in allowed)
        raise OptionError(f'{option}: "{value}" is not one of {names}.{did_you_mean(value, allowed)}')


def from_known_keys(cls: type[Section], values: dict[str, Any], section: str) -> Section:
    """Build a dataclass from a section's values.

    Raises:
        OptionError: a key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise OptionError(f'{section}: {values!r} must be a section with keys.')
    items = {item.name: item for item in dataclasses.fields(cls)}
    for key in values:
        if key not in items:
            raise OptionError(f'{section}: unknown key "{key}"; known are {", ".join(items)}.{did_you_mean(key, items)}')
    required = [name for name, item in items.items()
                if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise OptionError(f'{section}: {", ".join(missing)} must be given.')
    hints = typing.get_type_hints(cls)
    return cls(**{key: _typed(value, hints[key], f'{section}: {key}') for key, value in values.items()})


def _typed(value: Any, hint: Any, option: str) -> Any:
    """Check a value against a simple annotation; whole numbers pass where a float is wanted."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in allowed)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return value if int in kinds else float(value)
    if Any in kinds or (isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)):
        return value
    names = ', '.join('~' if kind is type(None) else getattr(kind, '__name__', str(kind)) for kind in kinds)
    raise OptionError(f'{option}: {value!r} must be of type {names}.')


def refuse_changed(args: Any, defaults: dict[str, Any], why: str) -> None:
    """Refuse arguments that would have no effect.

    Args:
        args: the arguments of a command.
        defaults: names of those that have no effect here, with their defaults.
        why: what the message says of the first one that has another value.

    Raises:
        OptionError: one was given.
    """
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise OptionError(f'--{name.replace("_", "-")}: {why}. Leave it out.')
