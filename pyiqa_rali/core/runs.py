"""The folder of a run: what it was started with, whether it can go on, and what it ran on."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import yaml

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import atomic_open, write_json

PACKAGES = ('pyiqa-rali', 'pyiqa', 'torch', 'timm', 'open_clip_torch', 'transformers', 'numpy', 'scipy')
MAY_CHANGE = ('logger', 'stages', 'num_gpu', 'path')


def claim(root: Path, options: dict[str, Any], continues: bool, free: tuple[str, ...]) -> None:
    """Make a run's folder and write its options and versions; an earlier run of that name is archived, unless this goes on.

    Args:
        root: the folder.
        options: the run's options as plain values.
        continues: whether this run goes on with the files in the folder.
        free: sections, and keys as 'section:key', that may then differ.

    Raises:
        OptionError: the run that this one goes on from had other options.
    """
    written = root / 'options.yml'
    if written.exists() and continues:
        check_same_options(yaml.safe_load(written.read_text(encoding='utf-8')), options, written, free)
    elif root.exists() and not continues:
        from pyiqa.utils.misc import mkdir_and_rename
        mkdir_and_rename(str(root))
    with atomic_open(written) as stream:
        yaml.safe_dump(options, stream, sort_keys=False)
    write_json(root / 'versions.json', versions())


def check_same_options(before: dict[str, Any], now: dict[str, Any], source: Path, free: tuple[str, ...] = MAY_CHANGE) -> None:
    """Raise OptionError, naming the first difference, when a run goes on with other options.

    Args:
        before: the options that the run was started with.
        now: the options now.
        source: where the first ones stand.
        free: sections, and keys as 'section:key', that may differ.
    """
    bound_before, bound = (_without(free, json.loads(json.dumps(options))) for options in (before, now))
    for section, value in bound.items():
        if bound_before.get(section) != value:
            raise OptionError(f'the options differ from those of {source}, whose files this run goes on from, in "{section}": '
                              f'{_first_difference(bound_before.get(section), value)}. Use the same options, or another name.')


def _without(free: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    return {name: {key: value for key, value in section.items() if f'{name}:{key}' not in free}
            if isinstance(section, dict) else section for name, section in options.items() if name not in free}


def _first_difference(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                return f'{key}: ' + _first_difference(before.get(key), now.get(key))
    return f'was {before!r}, is {now!r}'


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that matter, and the git revision of the source, if it has one."""
    return {'python': platform.python_version(), 'machine': platform.machine(), **package_versions(),
            'git_revision': git_revision()}


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = 'not installed'
    return found


def git_revision() -> str:
    """Return the commit of the checkout that this package runs from, '+' behind it when files were changed."""
    folder = Path(__file__).parents[1]
    try:
        revision = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(['git', 'status', '--porcelain', '-uno'], cwd=folder, capture_output=True, text=True,
                                 check=True)
    except (OSError, subprocess.CalledProcessError):
        return 'none: not run from a git checkout'
    return revision.stdout.strip() + ('+' if changed.stdout.strip() else '')
