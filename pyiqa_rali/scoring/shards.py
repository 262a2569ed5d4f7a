"""Tar shards in webdataset's layout, read as a stream: nothing is unpacked to disk.

Of an uncompressed shard only the headers are read here; whoever reads an image goes straight to its bytes. A compressed
shard, or one at an address, can only be read from its beginning, so its images are read here.
"""

import contextlib
import gzip
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any, cast

from pyiqa_rali.core.errors import DataError, first_line
from pyiqa_rali.data.addresses import is_address, path_part, shown
from pyiqa_rali.data.fetching import FETCHING, FetchError, FetchOptions, open_address
from pyiqa_rali.data.image_files import refuse_special_file
from pyiqa_rali.data.image_formats import image_extensions
from pyiqa_rali.scoring.entries import LARGEST_MEMBER, ImageEntry

PLAIN, COMPRESSED = '.tar', ('.tar.gz', '.tgz')
END_BLOCKS = 2  # of zeros, at the end of a shard
_CHECKSUM = re.compile(rb'[0-7 \0]*')  # how the checksum of a header is written
BETWEEN = '::'  # between shard and member in the name of an image


def is_shard(path: str) -> bool:
    """Whether the file's name, or its address, is that of a tar shard."""
    return path_part(path).lower().endswith((PLAIN, *COMPRESSED))


def is_compressed(path: str) -> bool:
    """Whether the shard can only be read from its beginning."""
    return is_address(path) or not path.lower().endswith(PLAIN)


def shard_entries(path: str, number: int, others: Counter, fetching: FetchOptions = FETCHING) -> Iterator[ImageEntry]:
    """Yield the images of a shard in their order, and at the end an entry with the reason if the shard is damaged.

    After a damaged place, such as a header that a download never wrote, and after the end of each of several concatenated
    shards, the search continues at the next header.

    Args:
        path: the shard, or its address.
        number: its place in the input.
        others: counts the members that are not images, by their extension.
        fetching: how an address is tried.
    """
    count, name = 0, shown(path)
    damages: list[tuple[int, str]] = []  # after how many members, and what it is
    what_happened = 'shard damaged'
    try:
        with _opened(path, fetching) as stream:
            blocks, goes_on = _Blocks(stream), True
            while goes_on:
                error = ''
                try:
                    for member in _members(blocks):
                        count += 1
                        if not member.isdir():
                            yield from _member_entry(path, (number, count), member, blocks, others)
                except tarfile.TarError as raised:
                    error = first_line(raised)
                damage, goes_on = blocks.find_next()
                if error or damage:
                    damages.append((count, (damage or error) if count else (error or damage)))
    except FetchError as error:
        damages, what_happened = [(count, first_line(error)), *damages], 'shard not read to its end'
    except (DataError, OSError, EOFError, zlib.error) as error:
        damages.append((count, _reason(error)))
    if damages:
        before, what = damages[0]
        more = f' (and {len(damages) - 1} more damaged places)' if len(damages) > 1 else ''
        yield ImageEntry(name, path, (number, count + 1), error=f'{what_happened} after {before} members: {what}{more}')


def shard_samples(path: str, fetching: FetchOptions = FETCHING) -> Iterator[tuple[list[str], dict[str, bytes]]]:
    """Yield the samples of a shard: members that follow each other and whose names are equal up to the first dot.

    Damaged places are passed over, as in `shard_entries`.

    Args:
        path: the shard, or its address.
        fetching: how an address is tried.

    Yields:
        The names of the sample's images, as `ImageSources` gives them, and its members by what follows the first dot.

    Raises:
        DataError, OSError, EOFError: it cannot be read, or not to its end.
    """
    key, names, parts = '', [], {}  # type: tuple[str, list[str], dict[str, bytes]]
    of_name: Counter[str] = Counter()
    for member, content in _whole_members(path, fetching):
        folder, _, base = member.rpartition('/')
        own, _, extension = base.partition('.')
        if (f'{folder}/{own}' != key or extension in parts) and parts:
            yield names, parts
            names, parts = [], {}
        key, parts[extension] = f'{folder}/{own}', content
        if os.path.splitext(member)[1].lower() in image_extensions():
            name = f'{shown(path)}{BETWEEN}{member}'
            of_name[name] += 1
            names.append(name if of_name[name] == 1 else f'{name}{BETWEEN}{of_name[name]}')
    if parts:
        yield names, parts


def _whole_members(path: str, fetching: FetchOptions) -> Iterator[tuple[str, bytes]]:
    with _opened(path, fetching) as stream:
        blocks, goes_on = _Blocks(stream), True
        while goes_on:
            with contextlib.suppress(tarfile.TarError):
                for member in _members(blocks):
                    if member.isreg() and not member.issparse() and member.size <= LARGEST_MEMBER:
                        yield member.name, blocks.read_exactly(member.size)
            _, goes_on = blocks.find_next()


def _members(blocks: '_Blocks') -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=cast(IO[bytes], blocks), mode='r:') as opened:  # it has read, seek and tell, and nothing else
        shard: Any = opened  # whose `members` annotations do not know
        while (member := shard.next()) is not None:
            shard.members.clear()  # tarfile would keep every header
            yield member


def _member_entry(path: str, position: tuple[int, int], member: tarfile.TarInfo, stream: '_Blocks',
                  others: Counter) -> Iterator[ImageEntry]:
    extension = os.path.splitext(member.name)[1].lower()
    if extension not in image_extensions():
        others[extension] += 1
        return
    name = f'{shown(path)}{BETWEEN}{member.name}'
    if not member.isreg() or member.issparse():
        yield ImageEntry(name, path, position, error='a link or a sparse file in the shard has no bytes of its own')
    elif not is_compressed(path):
        yield ImageEntry(name, path, position, member.offset_data, member.size)
    elif member.size > LARGEST_MEMBER:
        yield ImageEntry(name, path, position, error=f'{member.size} bytes are too many for an image: damaged shard?')
    else:
        try:
            content = stream.read_exactly(member.size)
        except (tarfile.TarError, DataError, OSError, EOFError, zlib.error) as error:  # its header is read: it has a row, too
            yield ImageEntry(name, path, position, error=f'the shard breaks off within this image: {_reason(error)}')
            raise
        yield ImageEntry(name, path, position, size=member.size, content=content)


@contextlib.contextmanager
def _opened(path: str, fetching: FetchOptions) -> Iterator[IO[bytes]]:
    """Yield a shard's bytes, uncompressed."""
    if not is_address(path):
        refuse_special_file(os.stat(path).st_mode)
    with open_address(path, fetching) if is_address(path) else open(path, 'rb') as stream:
        if path_part(path).lower().endswith(COMPRESSED):
            with gzip.open(stream) as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            yield stream


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


class _Blocks:
    """The blocks of a shard, for tarfile, which takes anything that is not a header for the end; here one looks beyond it."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self._last = b''
        self._ahead = b''  # a header that `find_next` found, to be read again
        self._start = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        if self._ahead and 0 <= size < len(self._ahead):
            self._last, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            rest = self._stream.read(size - len(self._ahead) if size >= 0 else -1)
            self._last, self._ahead = self._ahead + rest, b''
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
        self._ahead = b''
        return self._stream.seek(position)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell() - len(self._ahead)

    def find_next(self) -> tuple[str, bool]:
        """Go to the next header after what tarfile took for the end.

        Returns:
            What is damaged in between, empty for the mark that every writer puts at the end; and whether there is a header.
        """
        zeros, other, block = 0, False, self._last
        while block and not _is_header(block):
            empty = not block.strip(b'\0')
            zeros, other = zeros + empty, other or not empty
            block = self._stream.read(tarfile.BLOCKSIZE)
        self._ahead = block
        if other or (block and zeros < END_BLOCKS):
            return 'a header is not readable', bool(block)
        if not zeros:
            return 'the mark at its end is missing: it is cut short', False
        if block and (self.tell() - self._start) % tarfile.RECORDSIZE:  # most writers fill the last record of a shard
            return 'zeros in the middle: shards that were joined, or a hole', True
        self._start = self.tell()  # of the next one of several shards that were joined
        return '', bool(block)


def _is_header(block: bytes) -> bool:
    """Whether a block is the header of a member, by its checksum."""
    if len(block) != tarfile.BLOCKSIZE or not _CHECKSUM.fullmatch(block, 148, 156):
        return False  # at the speed of reading
    try:
        tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')
    except tarfile.HeaderError:
        return False
    return True
