"""Image files on disk: found one after the other, read as pyiqa reads them, and never left out in silence."""

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image
from PIL import ImageFile as PillowFile

from pyiqa_rali.core.errors import DataError, first_line


@dataclass
class ImageFile:
    """One image file that was tried.

    Attributes:
        path: the file.
        pixels: uint8 (H, W, 3), RGB; None when it cannot be read.
        error: why it cannot be read; empty when it can.
    """

    path: str
    pixels: np.ndarray | None = None
    error: str = ''


class ImageFinder:
    """Iterator over the image files of files and folders, which holds no more than one folder's names at a time.

    A file that is named stands for itself; a folder for all files below it whose extension Pillow knows, in the order
    of their names, links to folders included. A folder that cannot be listed is yielded too, so that reading it tells
    why.

    Args:
        sources: files and folders.

    Attributes:
        other_extensions: how many files in the folders are no images by their extension, for each extension.

    Raises:
        FileNotFoundError: a source does not exist.
    """

    def __init__(self, sources: Iterable[str]):
        self.sources = list(sources)
        self.other_extensions: Counter[str] = Counter()
        self._extensions = readable_extensions()
        for source in self.sources:
            if not os.path.exists(source):
                raise FileNotFoundError(f'{source}: no such file or folder')

    @property
    def other_files(self) -> int:
        """How many files in the folders are no images by their extension."""
        return self.other_extensions.total()

    def __iter__(self) -> Iterator[str]:
        for source in self.sources:
            if os.path.isdir(source):
                yield from self._below(source, set())
            else:
                yield source

    def _below(self, folder: str, visited: set[tuple[int, int]]) -> Iterator[str]:
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            yield folder
            return
        if (status.st_dev, status.st_ino) in visited:  # a link back to a folder above
            return
        visited.add((status.st_dev, status.st_ino))
        for entry in entries:
            if _is_folder(entry):
                yield from self._below(entry.path, visited)
            elif (extension := os.path.splitext(entry.name)[1].lower()) in self._extensions:
                yield entry.path
            else:
                self.other_extensions[extension] += 1


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder; a link that leads nowhere is none, and reading it tells why."""
    try:
        return entry.is_dir()
    except OSError:
        return False


@functools.cache
def readable_extensions() -> frozenset[str]:
    """Return the lower-case file extensions, with their dot, of the formats that Pillow reads."""
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in Image.OPEN)


def read_image_file(path: str) -> ImageFile:
    """Read an image; the result says so when it cannot be read."""
    try:
        if os.path.isdir(path):
            os.listdir(path)  # raises what kept the folder from being listed
        return ImageFile(path, read_like_pyiqa(path))
    except Exception as error:  # Pillow raises a dozen different classes for the ways in which a file can be broken
        return ImageFile(path, error=first_line(error))


def read_like_pyiqa(path: str | IO[bytes]) -> np.ndarray:
    """Read an image as pyiqa's metrics do for a path, except for 16-bit gray, which pyiqa clips to white.

    Args:
        path: the file, or a stream of its bytes.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DataError: the pixels have no known range.
        OSError, ValueError, ...: what Pillow raises for a file that it cannot read.
    """
    from pyiqa.utils.img_util import imread2pil
    with strict_decoding(), Image.open(path) as image:
        if image.mode in ('I', 'F'):
            raise DataError(f'32-bit pixels (mode {image.mode}) have no known range; convert the image to 8 or 16 bits')
        if image.mode.startswith('I;16'):  # Pillow would cut every value above 255
            gray = np.asarray(image, dtype=np.float32) / 257
            return np.repeat(gray.round().astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(imread2pil(image, rgb=True))


@contextlib.contextmanager
def strict_decoding() -> Iterator[None]:
    """Let Pillow refuse truncated files, whatever other modules have set.

    One of pyiqa's data set modules switches Pillow's `LOAD_TRUNCATED_IMAGES` on for the whole process when it is imported,
    and what is missing of a file would then be scored, or trained on, as gray.
    """
    before = PillowFile.LOAD_TRUNCATED_IMAGES
    PillowFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        PillowFile.LOAD_TRUNCATED_IMAGES = before
