"""Folders of hub repositories: from the cache when they are complete there, otherwise downloaded."""

import contextlib
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pyiqa_rali.core.errors import CheckpointError, first_line

SECONDS_TO_REACH_THE_HUB = 1.2
_REPOSITORY = re.compile(r'^[\w.-]+/[\w.-]+(:[\w./-]+)?$')


def is_hub_name(source: str) -> bool:
    """Whether a text can name a repository: 'owner/name' or 'owner/name:folder'."""
    return bool(_REPOSITORY.match(source)) and not source.startswith(('.', '/', '~'))


def _holds_something(folder: Path) -> bool:
    return any(folder.iterdir())


def from_hub(source: str, choices: str, revision: str | None = None, files: Sequence[str] = ('*',),
             is_whole: Callable[[Path], bool] = _holds_something) -> Path:
    """Return the folder of a hub repository, from its cache or downloaded with progress bars.

    Args:
        source: 'owner/name' or 'owner/name:folder'.
        choices: what the user can do without it, for the message.
        revision: branch, tag or commit; None means the main branch.
        files: names below the folder, with wildcards; nothing else is downloaded.
        is_whole: whether a cached folder holds what is needed; otherwise the hub is asked.

    Raises:
        CheckpointError: it is not in the cache, and the hub cannot be reached or does not have it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    repository, _, subfolder = source.partition(':')
    wanted = {'revision': revision, 'allow_patterns': [f'{subfolder}/{name}' if subfolder else name for name in files]}
    try:
        folder = Path(snapshot_download(repository, local_files_only=True, **wanted)) / subfolder
        if folder.is_dir() and is_whole(folder):
            return folder
    except LocalEntryNotFoundError:
        pass  # not in the cache: the hub is next
    except HFValidationError as error:
        raise CheckpointError(f'{source}: is not the name of a repository ({first_line(error)}).') from error
    called = f'{source} (revision {revision})' if revision else source
    endpoint = endpoint_of_hub()
    if os.environ.get('HF_HUB_OFFLINE', '').lower() in ('1', 'true', 'yes', 'on') or not can_reach(endpoint):
        raise CheckpointError(f'{called}: is not in the cache of the hub, and {endpoint} cannot be reached. What can be '
                              f'done: {choices}.')
    try:
        return Path(snapshot_download(repository, etag_timeout=10, endpoint=endpoint, **wanted)) / subfolder
    except Exception as error:  # the client's own classes, and those of whichever transport it uses
        raise CheckpointError(f'{called}: cannot be downloaded from {endpoint}: {error}. What can be done: '
                              f'{choices}.') from error


def commit_of(folder: Path) -> str | None:
    """Return the commit that a folder of the hub's cache belongs to; None for any other folder."""
    names = [name for name in folder.parts if re.fullmatch(r'[0-9a-f]{40}', name)]
    return names[-1] if names and 'snapshots' in folder.parts else None


def endpoint_of_hub() -> str:
    """Return the address of the hub, or of the mirror that replaces it."""
    return os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'


@contextlib.contextmanager
def cache_alone_when_out_of_reach() -> Iterator[None]:
    """Let third-party clients use their cache or fail at once, where they would try an unreachable hub for a minute."""
    from huggingface_hub import constants
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not can_reach(endpoint_of_hub())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


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

    thread = threading.Thread(target=connect, daemon=True)  # a name lookup has no timeout; it can only be abandoned
    thread.start()
    thread.join(seconds)
    return opened.is_set()
