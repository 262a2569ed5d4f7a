"""One image of a large job: a file, or a member of a tar shard, and how it is read."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage, read_rgb

Item = TypeVar('Item')
LARGEST_MEMBER = 1 << 30


@dataclass(frozen=True)
class ImageEntry:
    """Where one image is.

    Attributes:
        name: what the table calls it: the path, or `shard.tar::member`.
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


def as_entry(image: 'ImageEntry | str | os.PathLike') -> ImageEntry:
    """Return an entry for the path of a file; an entry stays as it is."""
    return image if isinstance(image, ImageEntry) else ImageEntry(os.fspath(image), os.fspath(image))


def read_entry(entry: ImageEntry, options: ReadingOptions = READING) -> np.ndarray:
    """Return an image as uint8 (H, W, 3).

    Raises:
        UnreadableImage: it cannot be read.
    """
    if entry.error:
        raise UnreadableImage(entry.name, entry.error)
    if entry.offset is None and entry.content is None:
        return read_rgb(entry.path, options)
    try:
        content = _content(entry)
    except (DataError, OSError) as error:
        raise UnreadableImage(entry.name, getattr(error, 'strerror', None) or str(error)) from error
    return read_rgb(content, options, entry.name)


def _content(entry: ImageEntry) -> bytes:
    if entry.content is not None:
        return entry.content
    if entry.size > LARGEST_MEMBER:
        raise DataError(f'{entry.size} bytes are too many for an image: is the shard damaged?')
    with open(entry.path, 'rb') as shard:
        shard.seek(entry.offset or 0)
        content = shard.read(entry.size)
    if len(content) < entry.size:
        raise DataError(f'the shard ends after {len(content)} of {entry.size} bytes of this image')
    return content


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
