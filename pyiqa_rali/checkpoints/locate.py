"""Where a checkpoint is: a path, the embedded file, the user's default, the hub's cache, the hub; in this order."""

import hashlib
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
import warnings
from importlib import resources
from pathlib import Path

from pyiqa_rali.checkpoints.default import cache_folder, find_default
from pyiqa_rali.checkpoints.format import FILE_NAME, save_checkpoint
from pyiqa_rali.errors import CheckpointError

RELEASED = 'ByteDance/Q-Insight:RALI'
EMBEDDED = 'rali_lite.safetensors'
FOLDER_VARIABLE = 'PYIQA_RALI_RELEASED'
SECONDS_TO_REACH_THE_HUB = 1.2
_REPOSITORY = re.compile(r'^[\w.-]+/[\w.-]+(:[\w./-]+)?$')
CHOICES = ('use the embedded weights: create_metric("rali-lite"); give a file or folder: pretrained_model_path=PATH, or '
           f'{FOLDER_VARIABLE}=FOLDER for a copy of the released folder; make an own export the default: python -m pyiqa_rali '
           'use FILE; or, with a network, set HF_ENDPOINT to a mirror that can be reached')


def locate_checkpoint(source: str) -> Path:
    """Return the checkpoint that a name, path or hub repository stands for, in our format.

    Args:
        source: 'rali' (the user's default, otherwise the released checkpoint), 'rali-lite' (embedded), a file or folder, or
            'owner/name' or 'owner/name:folder' on the hub. An existing path is never looked up on the hub.

    Raises:
        CheckpointError: it is nowhere to be had; the message says what can be done.
    """
    if source == 'rali-lite':
        return Path(str(resources.files('pyiqa_rali') / 'weights' / EMBEDDED))
    if source == 'rali':
        return _locate_rali()
    path = Path(source).expanduser()
    if path.exists():
        return converted(path)
    if source.startswith(('.', '/', '~')) or path.suffix in ('.safetensors', '.pth', '.pt') or not _REPOSITORY.match(source):
        raise CheckpointError(f'{source}: no such file or folder. Give the path of an export of pyiqa_rali.train, a hub '
                              'repository as owner/name or owner/name:folder, or rali-lite.')
    return converted(from_hub(source))


def _locate_rali() -> Path:
    chosen = find_default()
    if chosen is not None:
        warnings.warn(f'rali: the weights are your default, {chosen}, not the released checkpoint.', stacklevel=2)
        return converted(chosen)
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        if not Path(folder).expanduser().exists():
            raise CheckpointError(f'{FOLDER_VARIABLE}: {folder} does not exist. Correct or unset it.')
        return converted(Path(folder).expanduser())
    return converted(from_hub(RELEASED))


def converted(path: Path) -> Path:
    """Return the path itself, or for a released folder its conversion, which is made once and kept in the cache."""
    from pyiqa_rali.checkpoints.released import is_released, read_released
    if not path.is_dir() or (path / FILE_NAME).exists() or not is_released(path):
        return path
    files = [(path / name).stat() for name in ('ckpt.pt', 'pca.pkl')]
    key = hashlib.sha256(repr([str(path.resolve()), *[(item.st_size, item.st_mtime_ns) for item in files]]).encode())
    target = cache_folder() / f'released_{key.hexdigest()[:16]}.safetensors'
    if not target.exists():
        save_checkpoint(target, *read_released(path))
    return target


def from_hub(source: str, choices: str = CHOICES) -> Path:
    """Return the folder of a hub repository, from its cache or downloaded.

    Args:
        source: 'owner/name' or 'owner/name:folder'.
        choices: what can be done without it, for the message.

    Raises:
        CheckpointError: it is not in the cache, and the hub cannot be reached or does not have it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    repository, _, subfolder = source.partition(':')
    patterns = [f'{subfolder}/*'] if subfolder else None
    try:
        folder = Path(snapshot_download(repository, allow_patterns=patterns, local_files_only=True)) / subfolder
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    except LocalEntryNotFoundError:
        pass  # not in the cache: the hub is next
    endpoint = os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'
    if os.environ.get('HF_HUB_OFFLINE', '').lower() in ('1', 'true', 'yes', 'on') or not can_reach(endpoint):
        raise CheckpointError(f'{source}: is not in the cache of the hub, and {endpoint} cannot be reached. What can be '
                              f'done: {choices}.')
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns, etag_timeout=10)) / subfolder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f'{source}: cannot be downloaded from {endpoint}: {error}. What can be done: '
                              f'{choices}.') from error


def can_reach(endpoint: str, seconds: float = SECONDS_TO_REACH_THE_HUB) -> bool:
    """Whether a connection to the endpoint (or to the proxy before it) opens in time, name lookup included."""
    url = urllib.parse.urlsplit(endpoint)
    proxy = None if urllib.request.proxy_bypass(url.hostname or '') else urllib.request.getproxies().get(url.scheme)
    target = urllib.parse.urlsplit(proxy) if proxy else url
    port = target.port or (443 if target.scheme == 'https' else 80)
    opened = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((target.hostname, port), timeout=seconds).close()
        except OSError:
            return
        opened.set()

    thread = threading.Thread(target=connect, daemon=True)  # a name lookup cannot be timed out, only left behind
    thread.start()
    thread.join(seconds)
    return opened.is_set()
