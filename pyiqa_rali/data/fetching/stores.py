"""Every protocol but HTTP (s3, gs, az, hf, ...): the file system that fsspec has for it, which finds credentials by itself."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from pyiqa_rali.core.errors import OptionError, did_you_mean, first_line
from pyiqa_rali.data.addresses import is_web, protocol_of, shown
from pyiqa_rali.data.fetching.tries import BLOCK, FETCHING, LARGEST, FetchError, FetchOptions, Result, in_time, tried

EXTRA = 'pip install pyiqa-rali[remote]'


def content(address: str, options: FetchOptions) -> bytes:
    """Return the bytes at an address, or their beginning if they are too many for a picture.

    Raises:
        FetchError, TimeoutError, Exception: they cannot be fetched; libraries raise errors of their own.
    """
    system, path = _file_system(address)
    return in_time(lambda: _first_bytes(system, path), options.timeout)


@contextlib.contextmanager
def opened(address: str, options: FetchOptions, place: int, version: str) -> Iterator[tuple[Iterator[bytes], str]]:
    """Open a file and go on at a place; see `web.opened`. Stores do not say which version of a file they send.

    Raises:
        FetchError, TimeoutError, Exception: it cannot be read; libraries raise errors of their own.
    """
    system, path = _file_system(address)
    with contextlib.closing(in_time(lambda: system.open(path, 'rb'), options.timeout)) as file:
        if place:
            file.seek(place)
        yield _parts(file, options.timeout), version


def check_protocol(address: str) -> None:
    """Raise OptionError if nothing that is installed reads addresses of this protocol."""
    if is_web(address):
        return
    try:
        _file_system_class(address)
    except FetchError as error:
        raise OptionError(f'{shown(address)}: {error}') from error


def walk(address: str, options: FetchOptions = FETCHING) -> Iterator[str]:
    """Yield the addresses of all files below a folder, in the order of their names, one folder's names at a time.

    Raises:
        FetchError: a folder cannot be listed.
    """
    found = _listing(address, lambda system, path: system.ls(path, detail=True), options)
    names = {str(each['name']).rstrip('/'): each['type'] for each in found}
    own = _path_of(address)
    for name in sorted(names):
        if name != own:
            below = _address_of(address, name)
            if names[name] == 'directory':
                yield from walk(below, options)
            else:
                yield below


def matching(pattern: str, options: FetchOptions = FETCHING) -> list[str]:
    """Return the addresses of the files that match a pattern, in the order of their names.

    Raises:
        FetchError: they cannot be listed.
    """
    found = _listing(pattern, lambda system, path: system.glob(path, detail=True), options)
    return [_address_of(pattern, name) for name in sorted(found) if found[name].get('type') != 'directory']


def is_folder(address: str, options: FetchOptions = FETCHING) -> bool:
    """Whether an address is that of a folder; one that cannot be asked is none, and reading it shows why."""
    if is_web(address):
        return False
    with contextlib.suppress(FetchError):
        return bool(_listing(address, lambda system, path: system.isdir(path), options))
    return False


def _listing(address: str, ask: Callable[[Any, str], Result], options: FetchOptions) -> Result:
    def asked() -> Result:
        system, path = _file_system(address)
        return in_time(lambda: ask(system, path), options.timeout)
    return tried(asked, address, options)


def _file_system_class(address: str) -> Any:
    """Return fsspec's class of file systems for an address.

    Raises:
        FetchError: there is no such protocol, or its library is not installed.
    """
    try:
        import fsspec
    except ImportError:
        raise FetchError(f'addresses need {EXTRA}') from None
    protocol = protocol_of(address)
    try:
        return fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise FetchError(f'{protocol}:// needs {EXTRA} ({first_line(error)})') from None
    except ValueError:
        known = ('s3', 'gs', 'az', 'abfs', 'hf', 'http', 'https', *fsspec.available_protocols())
        raise FetchError(f'"{protocol}" is not a protocol that fsspec knows; such are s3, gs, az, hf, http and https'
                         f'{did_you_mean(protocol, known)}') from None


def _file_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address, with a listing of its own, and the path in it."""
    import fsspec
    _file_system_class(address)
    return fsspec.core.url_to_fs(address)


def _path_of(address: str) -> str:
    return _file_system_class(address)._strip_protocol(address).rstrip('/')


def _address_of(like: str, name: str) -> str:
    """Return the address of a name that a file system gives, in the protocol that the user wrote."""
    return f'{like.partition("://")[0]}://{name.lstrip("/") if protocol_of(like) != "file" else name}'


def _first_bytes(system: Any, path: str) -> bytes:
    try:
        return system.cat_file(path, start=0, end=LARGEST)
    except OSError as error:
        if 'range' in str(error).lower() and system.info(path)['size'] == 0:  # stores reject any range of an empty file
            return b''
        raise


def _parts(file: Any, seconds: float) -> Iterator[bytes]:
    while part := in_time(lambda: file.read(BLOCK), seconds):
        yield part
