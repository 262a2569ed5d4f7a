"""Tar shards in webdataset's layout, read as a stream: nothing is unpacked to disk.

Of an uncompressed shard only the headers are read here; whoever reads an image goes straight to its bytes. A compressed
shard can only be read from its beginning, so its images are read here.
"""

import gzip
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO

from pyiqa_rali.core.errors import first_line
from pyiqa_rali.data.image_formats import image_extensions
from pyiqa_rali.scoring.entries import LARGEST_MEMBER, ImageEntry

OPENERS: dict[str, Callable[..., IO[bytes]]] = {'.tar': open, '.tar.gz': gzip.open, '.tgz': gzip.open}
BETWEEN = '::'  # stands between a shard and its member in the name of an image


def is_shard(path: str) -> bool:
    """Whether the file's name is that of a tar shard."""
    return path.lower().endswith(tuple(OPENERS))


def is_compressed(path: str) -> bool:
    """Whether the shard can only be read from its beginning."""
    return not path.lower().endswith('.tar')


def shard_entries(path: str, number: int, others: Counter) -> Iterator[ImageEntry]:
    """Yield the images of a shard in their order, and at the end an entry with the reason if the shard is damaged.

    Args:
        path: the shard.
        number: its place in the input.
        others: counts the members that are no images, by their extension.
    """
    count = 0
    try:
        with _opener(path)(path, 'rb') as stream:
            watched = _LastBlock(stream)
            with tarfile.open(fileobj=watched, mode='r:') as shard:
                while (member := shard.next()) is not None:
                    count += 1
                    shard.members.clear()  # tarfile would keep every header
                    if not member.isdir():
                        yield from _member_entry(path, (number, count), member, watched, others)
            watched.check_end()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        yield ImageEntry(path, path, (number, count + 1),
                         error=f'shard damaged after {count} members: {_reason(error)}')


def _member_entry(path: str, position: tuple[int, int], member: tarfile.TarInfo, stream: '_LastBlock',
                  others: Counter) -> Iterator[ImageEntry]:
    extension = os.path.splitext(member.name)[1].lower()
    if extension not in image_extensions():
        others[extension] += 1
        return
    name = f'{path}{BETWEEN}{member.name}'
    if not member.isreg() or member.issparse():
        yield ImageEntry(name, path, position, error='a link or a sparse file in the shard has no bytes of its own')
    elif not is_compressed(path):
        yield ImageEntry(name, path, position, member.offset_data, member.size)
    elif member.size > LARGEST_MEMBER:
        yield ImageEntry(name, path, position, error=f'{member.size} bytes are too many for an image: damaged shard?')
    else:
        content = stream.read_exactly(member.size)
        yield ImageEntry(name, path, position, size=member.size, content=content)


def _opener(path: str) -> Callable[..., IO[bytes]]:
    return next(opener for ending, opener in OPENERS.items() if path.lower().endswith(ending))


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


class _LastBlock:
    """A stream that remembers the last block it gave: tarfile takes a damaged header in the middle for the end."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self._last = b''

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        self._last = self._stream.read(size)
        return self._last

    def read_exactly(self, size: int) -> bytes:
        """Return the next `size` bytes.

        Raises:
            tarfile.ReadError: there are fewer.
        """
        content = self.read(size)
        if len(content) < size:
            raise tarfile.ReadError(f'it ends after {len(content)} of {size} bytes of a member')
        return content

    def seek(self, position: int) -> int:
        """Go to a position."""
        return self._stream.seek(position)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()

    def check_end(self) -> None:
        """Raise tarfile.ReadError if what tarfile took for the end is not the mark that every writer puts there."""
        if self._last != bytes(tarfile.BLOCKSIZE):
            what = 'a header is not readable' if self._last else 'the mark at its end is missing: it is cut short'
            raise tarfile.ReadError(what)
