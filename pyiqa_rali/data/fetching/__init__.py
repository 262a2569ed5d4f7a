"""What stands at an address, fetched with limits on time, tries and size, and never without a reason.

HTTP is asked directly (`web`), every other protocol by the file system that fsspec has for it (`stores`). Connections that
break, servers that are too busy and answers that take too long are tried again, a fixed number of times; what cannot change
by waiting (no such file, no permission) is not (`tries`).
"""

import contextlib
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from pyiqa_rali.data.addresses import is_address, is_web
from pyiqa_rali.data.fetching import stores, web
from pyiqa_rali.data.fetching.stores import check_protocol, is_folder, matching, walk
from pyiqa_rali.data.fetching.tries import BLOCK, FETCHING, LARGEST, FetchError, FetchOptions, tried

__all__ = ['FETCHING', 'FetchError', 'FetchOptions', 'check_protocol', 'fetch', 'is_folder', 'matching', 'on_disk',
           'open_address', 'walk']


def fetch(address: str, options: FetchOptions = FETCHING) -> bytes:
    """Return the bytes at an address.

    Raises:
        FetchError: they cannot be fetched, or are too many for a picture.
    """
    read = functools.partial(web.content if is_web(address) else stores.content, address, options)
    content = tried(read, address, options)
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


class _AddressStream(io.RawIOBase):
    """The bytes at an address from the first to the last, over as many connections as it takes.

    Raises:
        FetchError: by the first read and later ones: see `fetch`, or the file has changed meanwhile.
    """

    def __init__(self, address: str, options: FetchOptions):
        super().__init__()
        self._address, self._options = address, options
        self._open = web.opened if is_web(address) else stores.opened
        self._place = 0
        self._parts: Iterator[bytes] | None = None
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
            self._rest = memoryview(tried(self._next, self._address, self._options))
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
                opened = self._open(self._address, self._options, self._place, self._version)
                self._parts, self._version = self._context.enter_context(opened)
            return next(self._parts, b'')
        except Exception:
            self._parts = None
            self._context.close()
            raise
