"""What stands at an address, by HTTP or by fsspec: fetched with limits on time, tries and size, and never without a reason.

HTTP is asked directly; every other protocol (s3, gs, az, hf, ...) by the file system that fsspec has for it, with the
credentials that it finds by itself. Connections that break, servers that are too busy and answers that take too
long are tried again, a fixed number of times; what cannot change by waiting (no such file, no permission) is not.
"""

import contextlib
import functools
import io
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from pyiqa_rali.core.errors import DataError, OptionError, did_you_mean, first_line
from pyiqa_rali.data.addresses import is_address, is_web, protocol_of, shown, without_secrets

Result = TypeVar('Result')
LARGEST = 1 << 30  # bytes of one picture
BLOCK = 1 << 20
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries; the pause doubles
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers of HTTP that another try may change
MEANINGS = {401: 'credentials are needed', 403: 'no permission', 404: 'not found', 410: 'not there any more'}
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError, ImportError)
FINAL_NAMES = ('NoCredentialsError', 'PartialCredentialsError', 'CredentialRetrievalError', 'DefaultCredentialsError',
               'OfflineModeIsEnabled')  # of libraries that may not be installed
EXTRA = 'pip install pyiqa-rali[remote]'
_ASKING: ContextVar[bool] = ContextVar('asking', default=False)  # whether a request of this thread is ours


@dataclass(frozen=True)
class FetchOptions:
    """How long, and how often, an address is tried.

    Attributes:
        timeout: seconds that one try for a picture may take; of a shard or list, seconds without a single byte.
        retries: how many more tries there are after one that failed for a reason that may pass.

    Raises:
        OptionError: a value that cannot be used.
    """

    timeout: float = 60.0
    retries: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise OptionError(f'timeout: {self.timeout!r} must be a number of seconds above 0.')
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise OptionError(f'retries: {self.retries!r} must be a whole number, at least 0.')


FETCHING = FetchOptions()


class FetchError(DataError):
    """What stands at an address cannot be fetched; the message is a reason without the address and without credentials."""


class _Final(Exception):
    """A failure that another try would not change."""


class _Busy(Exception):
    """A server asks to be asked later."""

    def __init__(self, reason: str, seconds: float = 0.0):
        super().__init__(reason)
        self.seconds = seconds


def fetch(address: str, options: FetchOptions = FETCHING) -> bytes:
    """Return the bytes at an address.

    Raises:
        FetchError: they cannot be fetched, or are too many for a picture.
    """
    read = functools.partial(_web_content if is_web(address) else _stored_content, address, options)
    content = _tried(read, address, options)
    if len(content) >= LARGEST:
        raise FetchError(f'more than {LARGEST} bytes are too many for an image')
    return content


def open_address(address: str, options: FetchOptions = FETCHING) -> IO[bytes]:
    """Open what stands at an address for reading from its beginning, forwards only; broken connections are continued.

    Raises:
        FetchError: it cannot be fetched; later reads may raise it too.
    """
    return io.BufferedReader(_AddressStream(address, options), BLOCK)


@contextlib.contextmanager
def on_disk(path: str, options: FetchOptions = FETCHING) -> Iterator[str]:
    """Yield the path of a file: its own or, for an address, that of a copy, which is removed at the end.

    Raises:
        FetchError: it cannot be fetched.
    """
    if not is_address(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix='pyiqa-rali-') as folder:
        copy = os.path.join(folder, 'copy')
        with open(copy, 'wb') as target, open_address(path, options) as source:
            shutil.copyfileobj(source, target, BLOCK)
        yield copy


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
        return _in_time(lambda: ask(system, path), options.timeout)
    return _tried(asked, address, options)


def _tried(work: Callable[[], Result], address: str, options: FetchOptions) -> Result:
    """Do the work, again where it fails for a reason that may pass.

    Raises:
        FetchError: it failed for good, or too often.
    """
    pause = FIRST_PAUSE
    for left in range(options.retries, -1, -1):
        try:
            return work()
        except (FetchError, _Final) as error:
            raise FetchError(without_secrets(first_line(error), address)) from None
        except Exception as error:  # of whichever library, and of its own kind
            reason, final = without_secrets(_reason(error), address), _is_final(error)
            if final or not left:
                tries = '' if final or not options.retries else f' ({options.retries + 1} tries)'
                raise FetchError(f'cannot be fetched: {reason}{tries}') from None  # the cause could show credentials
            time.sleep(min(max(pause, getattr(error, 'seconds', 0.0)), LONGEST_PAUSE))
            pause *= 2
    raise AssertionError('the last try returns or raises')


def _is_final(error: Exception) -> bool:
    return isinstance(error, FINAL) or type(error).__name__ in FINAL_NAMES


def _reason(error: Exception) -> str:
    """Return why a library failed, in one line; errors of the system say it in words of their own."""
    if isinstance(error, TimeoutError) or 'Timeout' in type(error).__name__:
        return 'no answer in time'
    if isinstance(error, FileNotFoundError):
        return 'not found'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = first_line(error)
    return text if isinstance(error, _Busy | OSError) else f'{type(error).__name__}: {text}'


# HTTP

@functools.lru_cache(maxsize=1)
def _client(process: int) -> Any:
    """Return this process's client: connections cannot be shared with a process that was forked."""
    import httpx
    logger = logging.getLogger('httpx')
    if not any(isinstance(each, _ShownAddresses) for each in logger.filters):
        logger.addFilter(_ShownAddresses())
    netrc = os.environ.get('NETRC') or os.path.expanduser('~/.netrc')
    auth = httpx.NetRCAuth(netrc) if os.path.isfile(netrc) else None
    return httpx.Client(follow_redirects=True, auth=auth, headers={'Accept-Encoding': 'identity', 'User-Agent': 'pyiqa-rali'})


class _ShownAddresses(logging.Filter):
    """Keeps credentials out of what httpx logs of our requests; requests of other parts of a program are left alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, its addresses without credentials."""
        if _ASKING.get() and isinstance(record.args, tuple):
            record.args = tuple(shown(str(each)) if type(each).__name__ == 'URL' else each for each in record.args)
        return True


@contextlib.contextmanager
def _answer(address: str, options: FetchOptions, headers: dict[str, str]) -> Iterator[Any]:
    """Yield a server's answer, whose content can be read.

    Raises:
        _Final, _Busy: the server says no, or not now.
    """
    import httpx
    client = _client(os.getpid())
    _ASKING.set(True)
    try:
        with client.stream('GET', address, timeout=options.timeout, headers=headers) as answer:
            if answer.status_code in BUSY:
                after = answer.headers.get('retry-after', '')
                raise _Busy(f'the server answers {answer.status_code} {answer.reason_phrase}'.strip(),
                            float(after) if after.isdigit() else 0.0)
            if answer.status_code >= 400:
                meaning = MEANINGS.get(answer.status_code, answer.reason_phrase or 'an error')
                raise _Final(f'cannot be fetched: the server answers {answer.status_code}: {meaning}')
            yield answer
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise _Final(f'cannot be fetched: {first_line(error)}') from error
    finally:
        _ASKING.set(False)


def _web_content(address: str, options: FetchOptions) -> bytes:
    _client(os.getpid())  # making it reads certificates, which is no fault of the server
    end = time.monotonic() + options.timeout
    content = bytearray()
    with _answer(address, options, {}) as answer:
        for part in answer.iter_raw():
            content += part
            if len(content) >= LARGEST:
                break
            if time.monotonic() > end:
                raise TimeoutError
    return bytes(content)


# Every other protocol

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


def _stored_content(address: str, options: FetchOptions) -> bytes:
    system, path = _file_system(address)
    return _in_time(lambda: _first_bytes(system, path), options.timeout)


def _first_bytes(system: Any, path: str) -> bytes:
    try:
        return system.cat_file(path, start=0, end=LARGEST)
    except OSError as error:
        if 'range' in str(error).lower() and system.info(path)['size'] == 0:  # stores reject any range of an empty file
            return b''
        raise


def _in_time(work: Callable[[], Result], seconds: float) -> Result:
    """Return what the work returns, if it does so in time; otherwise its thread is abandoned.

    Raises:
        TimeoutError: it takes longer.
    """
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, work()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError
    done, value = outcome[0]
    if done:
        return value
    raise value


class _AddressStream(io.RawIOBase):
    """The bytes at an address from the first to the last, over as many connections as it takes.

    Raises:
        FetchError: by the first read and later ones: see `fetch`, or the file has changed meanwhile.
    """

    def __init__(self, address: str, options: FetchOptions):
        super().__init__()
        self._address, self._options = address, options
        self._place = 0
        self._parts: Any = None
        self._rest = memoryview(b'')
        self._version = ''  # as the server calls it
        self._context = contextlib.ExitStack()

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._place

    def seekable(self) -> bool:
        """Forwards only, by reading."""
        return True

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Read on to a position.

        Raises:
            io.UnsupportedOperation: it lies behind.
        """
        target = position + (self._place if whence == os.SEEK_CUR else 0)
        if whence == os.SEEK_END or target < self._place:
            raise io.UnsupportedOperation('an address is read forwards only')
        while self._place < target and self.read(min(BLOCK, target - self._place)):
            pass
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes and return how many they are, 0 at the end."""
        if not self._rest:
            self._rest = memoryview(_tried(self._next, self._address, self._options))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest, self._place = self._rest[count:], self._place + count
        return count

    def close(self) -> None:
        """Close the connection."""
        self._context.close()
        super().close()

    def _next(self) -> bytes:
        """Return the bytes after the present place; after a failure, over a new connection."""
        try:
            if self._parts is None:
                self._parts = self._web_parts() if is_web(self._address) else self._stored_parts()
            return next(self._parts, b'')
        except Exception:
            self._parts = None
            self._context.close()
            raise

    def _web_parts(self) -> Iterator[bytes]:
        headers = {'Range': f'bytes={self._place}-'} if self._place else {}
        answer = self._context.enter_context(_answer(self._address, self._options, headers))
        version = answer.headers.get('etag') or answer.headers.get('last-modified') or ''
        if self._place and version != self._version:
            raise _Final('it has changed while it was read')
        self._version = version
        behind = 0 if answer.status_code == 206 else self._place  # some servers send everything again
        for part in answer.iter_raw():  # parts of a chosen size would be lost with a connection that breaks
            skipped = min(behind, len(part))
            behind -= skipped
            if len(part) > skipped:
                yield part[skipped:]

    def _stored_parts(self) -> Iterator[bytes]:
        seconds = self._options.timeout
        system, path = _file_system(self._address)
        file = _in_time(lambda: system.open(path, 'rb'), seconds)
        self._context.callback(file.close)
        if self._place:
            file.seek(self._place)
        while part := _in_time(lambda: file.read(BLOCK), seconds):
            yield part
