"""One image of a large job: a file, or a member of a tar shard, and how it is read."""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from pyiqa_rali.core.errors import DataError, first_line
from pyiqa_rali.data.image_files import ImageFile, read_image_file, read_like_pyiqa

Item = TypeVar('Item')
LARGEST_MEMBER = 1 << 30
MEMORY_ADDRESS = r' <_io\.BytesIO object at 0x[0-9a-fA-F]+>'  # in Pillow's messages, where a path would stand


@dataclass(frozen=True)
class ImageEntry:
    """Where one image is.

    Attributes:
        name: what stands in the table: the path, or `shard.tar::member`.
        path: the file, or the shard.
        position: place in the order of the input: (file or shard, member of the shard).
        offset: where a member's bytes start in the shard; None for a file.
        size: how many bytes a member has.
        content: a member's bytes, when the shard is compressed and was read from its beginning.
        error: why it cannot be read, when that is known already.
    """

    name: str
    path: str
    position: tuple[int, int] = (0, 0)
    offset: int | None = None
    size: int = 0
    content: bytes | None = None
    error: str = ''


def as_entry(image: 'ImageEntry | str') -> ImageEntry:
    """Return an entry for the path of a file; an entry stays as it is."""
    return image if isinstance(image, ImageEntry) else ImageEntry(image, image)


def read_entry(entry: ImageEntry) -> ImageFile:
    """Read an image; the result says so when it cannot be read."""
    if entry.error:
        return ImageFile(entry.name, error=entry.error)
    if entry.offset is None and entry.content is None:
        return read_image_file(entry.path)
    try:
        return ImageFile(entry.name, read_like_pyiqa(io.BytesIO(_content(entry))))
    except Exception as error:  # Pillow raises a dozen different classes for the ways in which a file can be broken
        return ImageFile(entry.name, error=re.sub(MEMORY_ADDRESS, '', first_line(error)))


def _content(entry: ImageEntry) -> bytes:
    if entry.content is not None:
        return entry.content
    if entry.size > LARGEST_MEMBER:
        raise DataError(f'{entry.size} bytes are too many for an image: is the shard damaged?')
    with open(entry.path, 'rb') as shard:
        shard.seek(entry.offset)
        content = shard.read(entry.size)
    if len(content) < entry.size:
        raise DataError(f'the shard ends after {len(content)} of {entry.size} bytes of this image')
    return content


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
