"""What folders were begun with: a record that every later run of the same work is compared with."""

import dataclasses
import glob
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.files import write_json, write_yaml
from pyiqa_rali.core.options import Sparse, plain
from pyiqa_rali.core.versions import versions

# sections and keys that the results of a training run do not depend on
MAY_CHANGE = ('logger', 'stages', 'num_gpu', 'path:experiments_root', 'path:feature_cache')
EARLIER = 'earlier'  # metadata of an option's field: what versions without the option did, where its default differs
ANOTHER_FOLDER = 'Give another folder, or remove it.'
LONGEST_SHOWN = 200  # characters of a value in a message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Difference:
    """One value that differs between two records.

    Attributes:
        keys: where it is: section, key, and so on.
        before: in the first record; None where it has none.
        now: in the second one.
    """

    keys: tuple[str, ...]
    before: Any
    now: Any

    @property
    def name(self) -> str:
        """The keys as option files write them: 'align: lr'."""
        return ': '.join(self.keys)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str] = ()) -> list[Difference]:
    """Return what differs between two records of plain values, in the order of the second one.

    Args:
        before: as read from a file.
        now: tuples count as lists, as they do in a file.
        free: sections, and keys as 'section:key', that may differ.

    Example:
        >>> differences({'seed': 0, 'align': {'lr': 1e-3}}, {'seed': 0, 'align': {'lr': 0.5}})
        [Difference(keys=('align', 'lr'), before=0.001, now=0.5)]
    """
    first, second = (json.loads(json.dumps(record)) for record in (before, now))
    return list(_differences((), first, second, frozenset(free)))


def _differences(keys: tuple[str, ...], before: dict[str, Any], now: dict[str, Any],
                 free: frozenset[str]) -> Iterator[Difference]:
    for key in dict.fromkeys([*now, *before]):
        place, first, second = (*keys, key), before.get(key), now.get(key)
        if first == second or ':'.join(place) in free:
            continue
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _differences(place, first, second, free)
        else:
            yield Difference(place, first, second)


def read_claim(record: Path) -> dict[str, Any] | None:
    """Return what a folder was begun with, or None when its record is not there.

    Args:
        record: a YAML file (.yml), or JSON.

    Raises:
        DataError: the file is not such a record.
    """
    if not record.is_file():
        return None
    try:
        text = record.read_text(encoding='utf-8')
        return dict(yaml.safe_load(text) if record.suffix == '.yml' else json.loads(text))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise DataError(f'{record} should say what its folder was begun with, and cannot be read: {error}. Restore it, or '
                        'remove the folder.') from error


def claim_folder(record: Path, now: Mapping[str, Any], option: str, *, kind: str | None = None, remedy: str = ANOTHER_FOLDER,
                 free: Sequence[str] = ()) -> dict[str, Any] | None:
    """Write down what a folder is begun with, or check that it was begun with the same.

    Args:
        record: the file in the folder; the folder is made if needed.
        now: all that the folder's other files depend on, as plain values.
        option: the option or argument that named the folder.
        kind: what the folder holds, such as 'analysis': other non-empty folders are rejected; None claims any folder.
        remedy: what to do about another record.
        free: keys, and 'section:key', that may differ; those that `now` lacks are kept.

    Returns:
        The record that was there, or None.

    Raises:
        OptionError: the folder was begun with something else, or holds something else.
        DataError: its record cannot be read.
    """
    before = read_claim(record)
    if before is not None:
        refuse_differences(f'{option}: {record.parent}', before, now, remedy, free)
    elif kind is not None:
        refuse_foreign(record.parent, option, kind)
    kept = {key: value for key, value in (before or {}).items() if key in free and key not in now}
    _write_claim(record, {**now, **kept})
    return before


def refuse_differences(begun: str, before: Mapping[str, Any], now: Mapping[str, Any], remedy: str = ANOTHER_FOLDER,
                       free: Sequence[str] = ()) -> None:
    """Raise OptionError, naming the first difference and the others, when two records differ.

    Args:
        begun: the option and the file or folder that was begun, such as '--out: DIR'.
        before: the record that is there.
        now: the record of this run.
        remedy: what to do.
        free: keys, and 'section:key', that may differ.
    """
    found = differences(before, now, free)
    if found:
        more = ', '.join(each.name for each in found[1:])
        raise OptionError(f'{begun} was begun with another {found[0].name}: {_shown(found[0].before)}, now '
                          f'{_shown(found[0].now)}{f" (and another {more})" if more else ""}. {remedy}')


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f'{text[:LONGEST_SHOWN]}...'


def refuse_foreign(folder: Path, option: str, kind: str, remedy: str = 'Give a new folder.') -> None:
    """Raise OptionError when a folder without a record is not empty, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f'{option}: {folder} is not empty and holds no {kind}. {remedy}')


def _write_claim(record: Path, values: Mapping[str, Any]) -> None:
    (write_yaml if record.suffix == '.yml' else write_json)(record, dict(values))


def claim_run(root: Path, options: Any, continues: bool, free: Sequence[str]) -> None:
    """Make the folder of a training run, with its `options.yml` and `versions.json`.

    An earlier run of that name is archived, unless this one resumes it. An option that its record does not have was added by a
    later version; it counts as its default, or as what the field's metadata has under `EARLIER`.

    Args:
        root: the folder.
        options: the run's options, a dataclass.
        continues: whether this run continues from the files in the folder.
        free: sections, and keys as 'section:key', that may differ then.

    Raises:
        OptionError: the run that this one resumes had other options.
    """
    record = root / 'options.yml'
    before = read_claim(record) if continues else None
    if before is not None:
        found = differences(_as_this_version_writes(before, options), plain(options), free)
        if found:
            section, *keys = found[0].keys
            where = ''.join(f'{key}: ' for key in keys)
            remedy = 'Use the same options'
            if found[0] not in differences(before, plain(options)):  # the record does not have that value
                remedy = f'Its version did not have this option; write {found[0].name}: {found[0].before} into the option file'
            raise OptionError(f'the options differ from those of {record}, whose files this run resumes from, in "{section}": '
                              f'{where}was {_shown(found[0].before)}, is {_shown(found[0].now)}. {remedy}, or use another '
                              'name.')
    elif root.exists() and not continues:
        _archive(root)
    _write_claim(record, plain(options))
    write_json(root / 'versions.json', versions())


def _as_this_version_writes(record: Any, options: Any) -> Any:
    """Return an earlier version's record with the options that have been added since, and without those that were removed."""
    if not isinstance(record, dict) or isinstance(options, Sparse):
        return record
    if dataclasses.is_dataclass(options):
        return {field.name: _as_this_version_writes(record[field.name], getattr(options, field.name))
                if field.name in record else _earlier(field) for field in dataclasses.fields(options)}
    if isinstance(options, dict):
        return {key: _as_this_version_writes(value, options.get(key)) for key, value in record.items()}
    return record


def _earlier(field: dataclasses.Field) -> Any:
    """Return how versions without an option behaved."""
    default = None if field.default is dataclasses.MISSING else field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    default = field.metadata.get(EARLIER, default)
    return plain(default)


def _archive(root: Path) -> None:
    """Rename a folder as pyiqa does, with the time after its name."""
    name = f'{root.name}_archived_{time.strftime("%Y%m%d_%H%M%S")}'
    taken = len(list(root.parent.glob(f'{glob.escape(name)}*')))  # already archived in the same second
    target = root.with_name(f'{name}_{taken}' if taken else name)
    root.rename(target)
    logger.info('%s already existed; it is archived as %s', root, target.name)
