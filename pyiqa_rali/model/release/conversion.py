"""The released layout is converted once, into a file of our format among pyiqa's own weights, and found there afterwards."""

import contextlib
import hashlib
import logging
import os
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.core.hub import commit_of, from_hub
from pyiqa_rali.model.checkpoint import FILE_NAME, load_checkpoint, save_checkpoint
from pyiqa_rali.model.release.clip_settings import PROCESSOR_FILES
from pyiqa_rali.model.release.released import FILES, MOS_RANGE, is_released, not_there_yet, read_released

LAYOUT = 2  # counts changes of what a conversion writes; an older one is made again, or from the first one (`_from_first`)
SECONDS_OF_A_DEAD_WRITER = 3600

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of pyiqa's weights (TORCH_HOME moves it), without importing pyiqa."""
    import torch
    return Path(torch.hub.get_dir()) / 'pyiqa'


def converted(path: Path) -> Path:
    """Return the path itself, or for a released folder its conversion, which is made once for each state of its files."""
    if not path.is_dir() or (path / FILE_NAME).exists() or not is_released(path):
        return path
    files = sorted(item for item in [*path.glob('*'), *path.glob('best/*')] if item.is_file())
    state = [(item.name, item.stat().st_size, item.stat().st_mtime_ns) for item in files]
    key = hashlib.sha256(repr((LAYOUT, str(path.resolve()), state)).encode()).hexdigest()[:16]
    return _once(cache_folder() / f'rali_folder_{key}.safetensors', lambda: read_released(path))


def converted_from_hub(source: str, revision: str | None, choices: str) -> Path:
    """Return a hub repository's checkpoint; the released layout is converted once for each revision that was asked for.

    Afterwards neither the hub nor its cache is looked at: a branch stays at the commit that it had. The file's metadata
    name it.

    Raises:
        CheckpointError: it is not in the cache, the hub does not give it, or it is not a checkpoint.
    """
    name = urllib.parse.quote(f'{source.replace(":", "/")}@{revision or "main"}', safe='@')
    target, first = (cache_folder() / f'rali_{name}_{layout}.safetensors' for layout in (LAYOUT, 1))
    if target.exists():
        return target
    if first.exists():
        return _once(target, lambda: _from_first(first))
    folder = fetch(source, revision, choices)
    if (folder / FILE_NAME).is_file():
        return folder / FILE_NAME
    return _once(target, lambda: read_fetched(folder, source))


def fetch(source: str, revision: str | None, choices: str) -> Path:
    """Return a hub repository's folder with the files that scoring needs; the others are not downloaded.

    Raises:
        CheckpointError: see `from_hub`, or the repository has neither layout.
    """
    wanted = [FILE_NAME, *FILES, *PROCESSOR_FILES]
    folder = from_hub(source, choices, revision, wanted, _is_whole)
    if (folder / FILE_NAME).is_file():
        return folder
    if not is_released(folder):
        raise CheckpointError(f'{source}: holds neither {FILE_NAME} nor a released RALI folder ({", ".join(FILES)}).')
    rest = not_there_yet(folder)
    if rest:
        folder = from_hub(source, choices, revision, [*wanted, *rest], lambda found: not not_there_yet(found))
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a folder of the hub's cache has what tells its layout, or a download was cut short."""
    return (folder / FILE_NAME).is_file() or (
        is_released(folder) and any((folder / name).is_file() for name in PROCESSOR_FILES))


def read_fetched(folder: Path, source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a folder from the hub, with where it came from."""
    tensors, metadata = read_released(folder)
    return tensors, {**metadata, 'training': {**metadata['training'], 'source': source, 'revision': commit_of(folder)}}


def _from_first(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a conversion of the first layout, whose range was that of its basis scores, as this layout has it."""
    tensors, metadata = load_checkpoint(path)
    return tensors, {**metadata, 'mos_range': list(MOS_RANGE)}


def _once(target: Path, read: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]) -> Path:
    """Write a conversion unless it is there; processes that start together wait for the one that writes."""
    if target.exists():
        return target
    from filelock import FileLock
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{target}.lock'):
            if not target.exists():
                _remove_dead_parts(target)
                logger.warning('pyiqa-rali: converting the released RALI, once, to %s', target)
                save_checkpoint(target, *read())
    except OSError as error:
        raise CheckpointError(f'{target}: cannot be written ({error}). Weights of pyiqa are kept there; TORCH_HOME '
                              'names another one, and python -m pyiqa_rali convert SOURCE OUT writes to any file.') from error
    return target


def _remove_dead_parts(target: Path) -> None:
    """Remove what a killed conversion left behind."""
    for part in target.parent.glob(f'.{target.name}.*.part'):
        with contextlib.suppress(OSError):
            if time.time() - os.stat(part).st_mtime > SECONDS_OF_A_DEAD_WRITER:
                part.unlink()
