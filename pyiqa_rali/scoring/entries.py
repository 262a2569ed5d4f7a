"""One image of a large job: a file, or a member of a tar shard, and how it is read."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.addresses import is_address
from pyiqa_rali.data.fetching import fetch
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage, read_rgb, rgb_of

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
        picture: a picture that is in memory already: of Pillow, or pixels (H, W, 3), uint8 or float32 in [0, 1].
    """

    name: str
    path: str
    position: tuple[int, int] = (0, 0)
    offset: int | None = None
    size: int = 0
    content: bytes | None = None
    error: str = ''
    picture: Any = field(default=None, compare=False)


def as_entry(image: 'ImageEntry | str | os.PathLike') -> ImageEntry:
    """Return an entry for the path of a file; an entry stays as it is."""
    return image if isinstance(image, ImageEntry) else ImageEntry(os.fspath(image), os.fspath(image))


def read_entry(entry: ImageEntry, options: ReadingOptions = READING) -> np.ndarray:
    """Return an image as uint8 (H, W, 3), or as it is where its pixels are in memory.

    Raises:
        UnreadableImage: it cannot be read.
    """
    if entry.error:
        raise UnreadableImage(entry.name, entry.error)
    if isinstance(entry.picture, np.ndarray):
        return entry.picture
    if entry.picture is not None:
        try:
            return rgb_of(entry.picture, options)
        except UnreadableImage as error:
            raise UnreadableImage(entry.name, error.reason) from error
    if entry.offset is None and entry.content is None:
        return read_rgb(entry.path, options)
    try:
        content = _content(entry)
    except (DataError, OSError) as error:
        raise UnreadableImage(entry.name, getattr(error, 'strerror', None) or str(error)) from error
    return read_rgb(content, options, entry.name)


def entry_bytes(entry: ImageEntry, options: ReadingOptions = READING) -> bytes:
    """Return the bytes of an image, as they are in its file, shard or table, or at its address.

    Raises:
        DataError, OSError: they cannot be read.
    """
    if entry.error:
        raise UnreadableImage(entry.name, entry.error)
    if entry.content is not None or entry.offset is not None:
        return _content(entry)
    if is_address(entry.path) and not os.path.exists(entry.path):
        return fetch(entry.path, options.fetching)
    with open(entry.path, 'rb') as stream:
        return stream.read()


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
