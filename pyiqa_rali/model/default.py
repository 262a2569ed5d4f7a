"""The user's own default for `rali`: an export that replaces the released weights until it is reset."""

import json
import os
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.core.files import sha256, write_json

VARIABLE = 'PYIQA_RALI_DEFAULT'


def config_file() -> Path:
    """Return where the choice is kept."""
    root = os.environ.get('XDG_CONFIG_HOME') or Path.home() / '.config'
    return Path(root) / 'pyiqa-rali' / 'default.json'


def set_default(path: Path) -> dict[str, Any]:
    """Make a checkpoint file the default of `rali`, with its digest."""
    choice = {'path': str(path.resolve()), 'sha256': sha256(path)}
    write_json(config_file(), choice)
    return choice


def reset_default() -> bool:
    """Forget the choice; return whether there was one."""
    existed = config_file().exists()
    config_file().unlink(missing_ok=True)
    return existed


def read_default() -> dict[str, Any] | None:
    """Return the choice, or None.

    Raises:
        CheckpointError: the file that keeps it cannot be read.
    """
    if not config_file().exists():
        return None
    try:
        choice = json.loads(config_file().read_text(encoding='utf-8'))
        return {'path': choice['path'], 'sha256': choice['sha256']}
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f'{config_file()}: cannot be read ({error}). Choose again with python -m pyiqa_rali use FILE, or '
                              'forget the choice with use --reset.') from error


def find_default() -> Path | None:
    """Return the user's default: the environment variable first, then the choice; None without either.

    Raises:
        CheckpointError: the file is gone or has changed since it was chosen.
    """
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not path.exists():
            raise CheckpointError(f'{VARIABLE}: {path} does not exist. Correct or unset it.')
        return path
    choice = read_default()
    if choice is None:
        return None
    path = Path(choice['path'])
    if not path.is_file():
        raise CheckpointError(f'{path}: was made the default of rali and is missing. Choose again with python -m pyiqa_rali '
                              'use FILE, or forget the choice with use --reset.')
    if sha256(path) != choice['sha256']:
        raise CheckpointError(f'{path}: has changed since it was made the default of rali. Choose it again with python -m '
                              'pyiqa_rali use FILE, or forget the choice with use --reset.')
    return path
