"""HTTP, asked directly, with the credentials of ~/.netrc."""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from pyiqa_rali.core.errors import first_line
from pyiqa_rali.data.addresses import shown
from pyiqa_rali.data.fetching.tries import BUSY, LARGEST, MEANINGS, Busy, FetchOptions, Final

_ASKING: ContextVar[bool] = ContextVar('asking', default=False)  # whether a request of this thread is ours


def content(address: str, options: FetchOptions) -> bytes:
    """Return the bytes at an address, or their beginning if they are too many for a picture.

    Raises:
        Final, Busy, TimeoutError, httpx.HTTPError: they cannot be fetched.
    """
    _client(os.getpid())  # making it reads certificates, which is no fault of the server
    end = time.monotonic() + options.timeout
    found = bytearray()
    with _answer(address, options, {}) as answer:
        for part in answer.iter_raw():
            found += part
            if len(found) >= LARGEST:
                break
            if time.monotonic() > end:
                raise TimeoutError
    return bytes(found)


@contextlib.contextmanager
def opened(address: str, options: FetchOptions, place: int, version: str) -> Iterator[tuple[Iterator[bytes], str]]:
    """Open a connection that goes on at a place.

    Args:
        address: whose bytes they are.
        options: how long to wait.
        place: the first byte that is wanted.
        version: what an earlier connection said that the server calls the file, where `place` is not 0.

    Yields:
        The bytes from there on, in parts, and what the server calls this version of the file.

    Raises:
        Final, Busy, TimeoutError, httpx.HTTPError: it cannot be read, or it has changed.
    """
    with _answer(address, options, {'Range': f'bytes={place}-'} if place else {}) as answer:
        now = answer.headers.get('etag') or answer.headers.get('last-modified') or ''
        if place and now != version:
            raise Final('it has changed while it was read')
        behind = 0 if answer.status_code == 206 else place  # some servers send everything again
        yield _after(answer.iter_raw(), behind), now  # parts of a chosen size would be lost with a connection that breaks


def _after(parts: Iterator[bytes], behind: int) -> Iterator[bytes]:
    for part in parts:
        skipped = min(behind, len(part))
        behind -= skipped
        if len(part) > skipped:
            yield part[skipped:]


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
        Final, Busy: the server says no, or not now.
    """
    import httpx
    client = _client(os.getpid())
    _ASKING.set(True)
    try:
        with client.stream('GET', address, timeout=options.timeout, headers=headers) as answer:
            if answer.status_code in BUSY:
                after = answer.headers.get('retry-after', '')
                raise Busy(f'the server answers {answer.status_code} {answer.reason_phrase}'.strip(),
                           float(after) if after.isdigit() else 0.0)
            if answer.status_code >= 400:
                meaning = MEANINGS.get(answer.status_code, answer.reason_phrase or 'an error')
                raise Final(f'cannot be fetched: the server answers {answer.status_code}: {meaning}')
            yield answer
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise Final(f'cannot be fetched: {first_line(error)}') from error
    finally:
        _ASKING.set(False)
