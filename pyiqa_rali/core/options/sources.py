"""Where options come from: YAML files in pyiqa's style, read strictly, and overrides of the command line."""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pyiqa_rali.core.errors import OptionError, did_you_mean, first_line
from pyiqa_rali.core.files import NUMBER_WITH_EXPONENT
from pyiqa_rali.core.options.values import plain

OptionSource = str | os.PathLike[str] | Mapping[str, Any]  # an option file, or the contents of one
MERGE_TAG = 'tag:yaml.org,2002:merge'


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that rejects duplicate keys, and reads merge keys (`<<`) and `1e-4` as a number."""

    def __init__(self, stream: Any):
        super().__init__(stream)
        self._merged: set[int] = set()  # ids of mappings, which the composed document keeps alive

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what `<<` names among a section's keys: its own win, then those of the section that is named first.

        PyYAML's own way lets the last of several win, and would not tell a key that was merged from one that is there twice.
        """
        if id(node) not in self._merged:
            self._merged.add(id(node))
            own = [pair for pair in node.value if pair[0].tag != MERGE_TAG]
            self._refuse_duplicates(node)
            keys = [self._key(pair) for pair in own]
            merged: list[tuple[yaml.Node, yaml.Node]] = []
            for _, named in (pair for pair in node.value if pair[0].tag == MERGE_TAG):
                for source in named.value if isinstance(named, yaml.SequenceNode) else [named]:
                    merged += self._taken(source, node, keys)
            node.value = merged + own
        super().flatten_mapping(node)

    def _taken(self, source: yaml.Node, node: yaml.MappingNode, keys: list[Any]) -> list[tuple[yaml.Node, yaml.Node]]:
        """Return those pairs of a merged section whose keys are not among `keys`, and add these to them."""
        if not isinstance(source, yaml.MappingNode):
            raise OptionError(f'"<<" takes a section, or a list of sections, and nothing else{node.start_mark}.')
        self.flatten_mapping(source)
        taken = [pair for pair in source.value if self._key(pair) not in keys]
        keys += [self._key(pair) for pair in taken]
        return taken

    def _key(self, pair: tuple[yaml.Node, yaml.Node]) -> Any:
        return '<<' if pair[0].tag == MERGE_TAG else self.construct_object(pair[0], deep=True)

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        keys = [self._key(pair) for pair in node.value]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise OptionError(f'key "{repeated[0]}" appears twice in one section{node.start_mark}. Keep one of them.')


def _mapping_at_once(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_at_once)
_StrictLoader.add_implicit_resolver('tag:yaml.org,2002:float', NUMBER_WITH_EXPONENT, list('-+0123456789'))


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Read an option file as plain values.

    Raises:
        OptionError: the file is missing, is not a mapping, or has a key twice.
    """
    path = Path(path)
    if not path.is_file():
        raise OptionError(f'-opt: {path} is not a file. Give the path of an option file such as options/rali.yml.')
    try:
        values = yaml.load(path.read_text(encoding='utf-8'), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        hint = ''
        if 'mapping values are not allowed' in str(error):  # what YAML says of a colon in a text
            hint = '\nA text with a colon in it, such as JSON, is written below "key: |-", indented, or in quotation marks.'
        raise OptionError(f'-opt: {path} is not valid YAML: {error}{hint}') from error
    if not isinstance(values, dict):
        raise OptionError(f'-opt: {path} holds no options.')
    return _apart(values)


def _apart(values: Any) -> Any:
    """Return a copy in which nothing is in two places: an override of one section must not change another one's anchor."""
    if isinstance(values, dict):
        return {key: _apart(value) for key, value in values.items()}
    return [_apart(value) for value in values] if isinstance(values, list) else values


def values_of(options: Any, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return options as plain values, wherever they come from, to be checked by their reader.

    Args:
        options: the path of an option file, plain values, or a dataclass that was made in Python or read before.
        overrides: 'section:key=value' entries.

    Raises:
        OptionError: see `read_yaml` and `override`.
    """
    return override(read_yaml(options) if isinstance(options, str | os.PathLike) else plain(options), list(overrides))


def override(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return the options with `section:key=value` entries applied (pyiqa's --force_yml, without its exec).

    Raises:
        OptionError: an entry has no '=', names a key that the file does not have, or its value is not YAML.
    """
    values = copy.deepcopy(values)  # in the file's order: being the first data set or variant may have a meaning
    for entry in overrides:
        names, separator, text = entry.partition('=')
        if not separator:
            raise OptionError(f'--force_yml: "{entry}" must be section:key=value.')
        name, left, section = *_next_key(values, names.strip().split(':')), values
        while left:
            section = _existing(section, name, entry)
            name, left = _next_key(section, left)
        _existing(section, name, entry, leaf=True)
        section[name] = _value_of(text, entry)
    return values


def _value_of(text: str, entry: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise OptionError(f'--force_yml: the value of "{entry}" is not valid YAML ({first_line(error)}).') from error


def _next_key(section: dict[str, Any], names: list[str]) -> tuple[str, list[str]]:
    """Return the section's key that the names begin with, and the names after it; a key may itself contain colons."""
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
