"""Finding the image files of folders."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator

from pyiqa_rali.data.image_formats import image_extensions


class ImageFinder:
    """Iterator over the image files of files and folders, which holds no more than one folder's names at a time.

    A named file stands for itself; a folder stands for all files below it that are pictures by their extension, whether or not
    they can be read, in the order of their names, links to folders included. A folder that cannot be listed is yielded too, so
    that reading it shows why.

    Args:
        sources: files and folders.

    Attributes:
        other_extensions: how many files in the folders are not images by their extension, for each extension.

    Raises:
        FileNotFoundError: a source does not exist.
    """

    def __init__(self, sources: Iterable[str]):
        self.sources = list(sources)
        self.other_extensions: Counter[str] = Counter()
        self._extensions = image_extensions()
        for source in self.sources:
            if not os.path.exists(source):
                raise FileNotFoundError(f'{source}: no such file or folder')

    @property
    def other_files(self) -> int:
        """How many files in the folders are not images by their extension."""
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
    """Whether an entry is a folder; a broken link is not, and reading it shows why."""
    try:
        return entry.is_dir()
    except OSError:
        return False
