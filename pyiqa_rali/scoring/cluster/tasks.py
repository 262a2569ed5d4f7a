"""The input cut into tasks: some images, or one file with many, that one process scores and writes to one file.

The same sources give the same tasks, whatever the cluster; so a task that is done is known by its number and its images.
"""

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pyiqa_rali.scoring.entries import ImageEntry
from pyiqa_rali.scoring.shards import is_compressed, is_shard
from pyiqa_rali.scoring.sources import SourceFile

SMALLEST, LARGEST = 64, 4096  # images in a task
TASKS_OF_A_SIZE = 256  # then they double: small jobs occupy all actors, large ones do not make millions of files
LARGEST_FILE = 4 << 30  # bytes; a larger shard is shared by several tasks where its members can be found without reading it
LARGEST_CONTENT = 32 << 20  # bytes of pictures that travel with a task


@dataclass(frozen=True)
class ScoreTask:
    """Images that are scored by one process and written to one file.

    Attributes:
        number: place among the tasks, in the order of the input.
        images: what is scored; empty where a file is to be opened.
        file: a file whose images are scored, such as a shard.
    """

    number: int
    images: tuple[ImageEntry, ...] = ()
    file: SourceFile | None = None

    def identity(self) -> str:
        """Return a digest that tells whether a file written earlier is about the same images.

        It covers the names of images, and of a file with images in it the path, size and time of change.
        """
        digest = hashlib.blake2b(digest_size=16)
        if self.file is not None:
            digest.update(os.fsencode(self.file.path))
            try:
                status = os.stat(self.file.path)
                digest.update(f'\0{status.st_size} {status.st_mtime_ns}'.encode())
            except OSError:
                digest.update(b'\0not there')
        for image in self.images:
            digest.update(os.fsencode(image.name) + b'\0')
        return digest.hexdigest()


@dataclass
class ListingEnd:
    """What the listing knows when all names have been read.

    Attributes:
        tasks: how many there are.
        repeated: images that were named again.
        others: files that are not images, for each extension.
        empty: folders, lists, globs and shards that hold no image.
    """

    tasks: int
    repeated: int = 0
    others: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)


def size_of_task(number: int) -> int:
    """Return how many images the task of a number has.

    Example:
        >>> [size_of_task(number) for number in (0, 255, 256, 512, 10_000)]
        [64, 64, 128, 256, 4096]
    """
    return min(LARGEST, SMALLEST << min(number // TASKS_OF_A_SIZE, 20))


def tasks_of(sources: Any) -> Iterator[ScoreTask | ListingEnd]:
    """Yield the tasks in the order of the input, as names are read, and what the listing knows at its end.

    Args:
        sources: `ImageSources` or `NamedImages`.
    """
    images: list[ImageEntry] = []
    number = content = 0
    for file in sources.files():
        if file.holds_several and not _is_shared(file.path):
            if images:
                yield ScoreTask(number, tuple(images))
                number, images, content = number + 1, [], 0
            yield ScoreTask(number, file=file)
            number += 1
            continue
        for image in sources.images_of(file):
            images.append(image)
            content += len(image.content or b'')
            if len(images) >= size_of_task(number) or content > LARGEST_CONTENT:
                yield ScoreTask(number, tuple(images))
                number, images, content = number + 1, [], 0
    if images:
        yield ScoreTask(number, tuple(images))
        number += 1
    yield ListingEnd(number, sources.repeated, sources.others, sources.empty)


def _is_shared(path: str) -> bool:
    """Whether a shard is so large that several tasks share it: one that is read where each of its images is."""
    if not is_shard(path) or is_compressed(path):
        return False
    try:
        return os.path.getsize(path) > LARGEST_FILE
    except OSError:
        return False


class SeenOnDisk:
    """A set of names that takes a bounded amount of memory, whatever their number: digests of 16 bytes in a temporary file."""

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None

    def __contains__(self, name: str) -> bool:
        found = self._opened().execute('SELECT 1 FROM seen WHERE name = ?', (_digest(name),))
        return found.fetchone() is not None

    def add(self, name: str) -> None:
        """Add a name."""
        self._opened().execute('INSERT OR IGNORE INTO seen VALUES (?)', (_digest(name),))

    def __getstate__(self) -> dict[str, Any]:
        """Travel empty: to the process that reads the names, before it has read one."""
        return {'_database': None}

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = sqlite3.connect('', isolation_level=None)  # a temporary file that sqlite removes
            for each in ('journal_mode = OFF', 'synchronous = OFF', 'cache_size = -65536', 'locking_mode = EXCLUSIVE'):
                self._database.execute(f'PRAGMA {each}')
            self._database.execute('CREATE TABLE seen (name BLOB PRIMARY KEY) WITHOUT ROWID')
            self._database.execute('BEGIN')
        return self._database


class NothingSeen:
    """Stands for the set of names where none can come twice: the files of one folder."""

    def __contains__(self, name: str) -> bool:
        return False

    def add(self, name: str) -> None:
        """Add nothing."""


def seen_names(words: Iterable[str]) -> SeenOnDisk | NothingSeen:
    """Return what remembers the names of these sources: the files of a single folder need no memory."""
    words = list(words)
    return NothingSeen() if len(words) == 1 and os.path.isdir(words[0]) else SeenOnDisk()


def _digest(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=16).digest()
