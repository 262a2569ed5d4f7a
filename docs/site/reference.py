"""Reference text made from the code: tables of option sections, help of commands, and blocks of the README."""

import argparse
import dataclasses
import importlib
import inspect
import os
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types

from pyiqa_rali.cli.arguments import CommandParser

HELP_WIDTH = '82'
ENTRY = re.compile(r'^    (\w+(?:, \w+)*): (.*\n(?:     +.*\n|\n)*)', re.MULTILINE)  # of the attributes in a docstring


def marked_block(path: Path, name: str) -> str:
    """Return the fenced block behind the comment `<!-- name -->` of a file, fences included.

    Raises:
        LookupError: there is none.
    """
    text = path.read_text(encoding='utf-8')
    found = re.search(rf'^<!-- {re.escape(name)} -->\n(```.*?\n```)$', text, re.DOTALL | re.MULTILINE)
    if not found:
        raise LookupError(f'{path}: no fenced block after <!-- {name} -->')
    return found[1]


def option_tables(target: str) -> str:
    """Return Markdown for a section's dataclass, and for the sections in it.

    Each section has a heading, the first sentence of its class, and a table of its keys: type, default and meaning, from
    annotations and docstring.

    Args:
        target: 'module:Class', or 'module:Class beyond module:Base' without the keys that are in both and mean the same.
    """
    cls, *bases = (getattr(importlib.import_module(module), name)
                   for module, name in (each.split(':') for each in target.split(' beyond ')))
    own, texts = vars(cls).get('__annotations__', {}), attribute_texts(cls)
    without = {item.name for base in bases for item in dataclasses.fields(base)
               if item.name not in own and texts.get(item.name) == attribute_texts(base).get(item.name)}
    return '\n\n'.join(_sections(cls, '', set(), without))


def _sections(cls: type, path: str, seen: set[type], without: set[str]) -> Iterator[str]:
    seen.add(cls)
    hints = typing.get_type_hints(cls, include_extras=True)
    heading = f'### `{path}`\n\n' if path else ''
    yield heading + _summary(cls) + '\n\n' + _table(cls, hints, {'model_type', *without})
    for item in dataclasses.fields(cls):
        for part in _dataclasses_in(hints[item.name]):
            if part not in seen and item.name not in {'datasets', *without}:  # which have tables of their own
                yield from _sections(part, f'{path} {item.name}:'.strip(), seen, set())


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from _dataclasses_in(part)


def _table(cls: type, hints: dict[str, Any], without: set[str]) -> str:
    meanings = attribute_texts(cls)
    rows = [f'| `{item.name}` | {type_text(hints[item.name])}{_default(item)} | {meanings.get(item.name, "")} |'
            for item in dataclasses.fields(cls) if item.init and item.name not in without]
    return '\n'.join(['| key | type, default | meaning |', '|---|---|---|', *rows])


def attribute_texts(cls: type) -> dict[str, str]:
    """Return what the `Attributes:` of a class's docstring, and of its bases, say of each key, in a line each."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(vars(base).get('__doc__') or '').partition('Attributes:\n')[2]
        for names, meaning in ENTRY.findall(re.split(r'^\S', text + '\n', maxsplit=1, flags=re.MULTILINE)[0]):
            found |= dict.fromkeys(names.split(', '), _in_cell(meaning))
    return found


def _summary(cls: type) -> str:
    return (cls.__doc__ or '').strip().split('\n\n')[0].replace('\n', ' ')


def _in_cell(text: str) -> str:
    """Return a description as it may stand in a cell: one line, values as an option file writes them."""
    text = ' '.join(text.split()).replace('|', '\\|')
    text = re.sub(r"(?<![\w`])'([^'`\s]+)'(?!\w)", r'`\1`', re.sub(r'\bNone\b', '`~`', text))
    return text[:1].upper() + text[1:]


def _default(item: dataclasses.Field) -> str:
    if item.default is not dataclasses.MISSING:
        value = item.default
    elif item.default_factory is not dataclasses.MISSING:
        value = item.default_factory()
    else:
        return ' (**must be given**)'
    return '' if dataclasses.is_dataclass(value) or value in ({}, [], ()) else f', default `{as_yaml(value)}`'


def as_yaml(value: Any) -> str:
    """Return a value as an option file would write it on one line.

    Example:
        >>> as_yaml(None), as_yaml(True), as_yaml([1, 5]), as_yaml({'a': 'x'})
        ('~', 'true', '[1, 5]', '{a: x}')
    """
    if value is None:
        return '~'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f'[{", ".join(map(as_yaml, value))}]'
    if isinstance(value, dict):
        return '{' + ', '.join(f'{key}: {as_yaml(each)}' for key, each in value.items()) + '}'
    return ' '.join(str(value).split()).replace('|', '\\|')


def type_text(hint: Any) -> str:
    """Return an annotation in words: choices as they are written, bounds behind the type, `~` for None.

    Example:
        >>> type_text(typing.Annotated[int, annotated_types.Ge(1)] | None), type_text(list[typing.Literal['a', 'b']])
        ('whole number ≥ 1, or `~`', 'list of `a`, `b`')
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ', '.join(f'`{as_yaml(choice)}`' for choice in parts)
    if origin is typing.Annotated:
        return ' '.join([type_text(parts[0]), ', '.join(filter(None, map(_bound_text, parts[1:])))])
    if origin in (types.UnionType, typing.Union):
        return ', or '.join([*(type_text(part) for part in parts if part is not type(None)),
                             *['`~`'] * (type(None) in parts)])
    if dataclasses.is_dataclass(hint) or dict in (origin, hint):
        return 'section'
    if origin is tuple and parts[-1] is not ...:
        return f'list of {len(parts)}: {type_text(parts[0])}'
    if origin in (list, tuple):
        return f'list of {type_text(parts[0])}'
    return {bool: '`true`, `false`', int: 'whole number', float: 'number', str: 'text', list: 'list', tuple: 'list',
            Any: 'anything'}[hint]


def _bound_text(bound: Any) -> str:
    """Return a bound of the package annotated-types in signs; '' for anything else."""
    parts = list(bound) if isinstance(bound, annotated_types.GroupedMetadata) else [bound]
    signs = {'ge': '≥', 'gt': '>', 'le': '≤', 'lt': '<', 'multiple_of': 'multiple of', 'min_length': 'with at least',
             'max_length': 'with at most'}
    return ', '.join(f'{sign} {getattr(part, name)}' for part in parts for name, sign in signs.items() if hasattr(part, name))


def every_help() -> str:
    """Return what `--help-all` prints for every command and for training, each below a heading."""
    from pyiqa_rali import __main__, train

    os.environ['COLUMNS'] = HELP_WIDTH
    parsers = [(parser.prog, parser) for name in __main__.COMMANDS for parser in _leaves(__main__.build_parser(name), name)]
    parsers.append((train.build_parser().prog, train.build_parser()))
    return '\n\n'.join(f'## {name.removeprefix("pyiqa-rali ")}\n\n```text\n{parser.format_help(everything=True).rstrip()}\n```'
                       for name, parser in parsers)


def _leaves(parser: CommandParser, name: str) -> Iterator[CommandParser]:
    """Yield the parser of a command and those of the commands in it."""
    chosen = _subparsers(parser)[name]
    yield chosen
    for inner in _subparsers(chosen):
        yield from _leaves(chosen, inner)


def _subparsers(parser: CommandParser) -> dict[str, CommandParser]:
    return next((action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)), {})
