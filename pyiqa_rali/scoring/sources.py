"""From command-line words to images: files, folders, globs, braces, lists, shards, tables of pictures, and addresses."""

import contextlib
import glob
import itertools
import math
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError, first_line, some
from pyiqa_rali.data.addresses import extension_of, is_address, is_web, shown
from pyiqa_rali.data.fetching import (
    FETCHING,
    FetchError,
    FetchOptions,
    check_protocol,
    is_folder,
    matching,
    open_address,
    walk,
)
from pyiqa_rali.data.image_finder import ImageFinder
from pyiqa_rali.data.image_formats import image_extensions
from pyiqa_rali.scoring.entries import ImageEntry
from pyiqa_rali.scoring.lists import listed_paths
from pyiqa_rali.scoring.row_files import is_row_file, row_entries, saved_dataset
from pyiqa_rali.scoring.shards import BETWEEN, is_shard, shard_entries

STANDARD_INPUT = '-'
LIST_MARK = '@'
MOST_WORDS = 1_000_000  # that braces may expand to


@dataclass(frozen=True)
class SourceFile:
    """A file that the sources name.

    Attributes:
        path: of an image, a shard or a table of pictures, or the address of one.
        number: its place in the order of the input.
        error: why its images cannot be read, when that is known already.
    """

    path: str
    number: int
    error: str = ''

    @property
    def holds_several(self) -> bool:
        """Whether the file has to be opened to find its images; otherwise it is one image itself."""
        return not self.error and (is_shard(self.path) or is_row_file(self.path))


class NamedImages:
    """Iterator over image files whose paths are known, such as those of a data set; otherwise like `ImageSources`."""

    def __init__(self, paths: Iterable[str]):
        self.paths = list(dict.fromkeys(paths))
        self.others: Counter[str] = Counter()
        self.repeated = 0
        self.empty: list[str] = []

    def __iter__(self) -> Iterator[ImageEntry]:
        for file in self.files():
            yield from self.images_of(file)

    def files(self) -> Iterator[SourceFile]:
        """Yield the files."""
        for number, path in enumerate(self.paths):
            yield SourceFile(path, number)

    def images_of(self, file: SourceFile) -> Iterator[ImageEntry]:
        """Yield the image that a file is."""
        yield ImageEntry(file.path, file.path, (file.number, 0))


class ImageSources:
    """Iterator over the images of the sources, in a fixed order.

    A source is a file, a folder (all images below it), a tar shard, a Parquet or Arrow file or a data set that `datasets` has
    saved (`row_files`), a glob (`**` goes into folders), any of these at an address (`s3://bucket/a.tar`; HTTP has neither
    folders nor globs), any of these with braces (`{000..099}`, `{train,val}`), `@FILE` (a list), or `-` (a list from
    standard input). A list has one file, address, shard or folder per line, relative to the working folder; whatever does not
    exist, in a list or among other sources, becomes an image without a score. Members of the same name in one shard are
    distinguished by a number: `shard.tar::a.jpg`, `shard.tar::a.jpg::2`. Images at addresses are named without credentials.

    Args:
        sources: the words of the command line.
        once: leave out images that are named again.
        seen: remembers names for that, as a set of them does; None takes a set.
        image_column: of Parquet and Arrow files, the column with the pictures; None takes the only one that can hold them.
        fetching: how addresses are tried.

    Attributes:
        others: how many files in folders, globs and shards are not images by their extension, for each extension.
        repeated: how many images were named again, and left out.
        empty: folders, lists, globs and shards without an image; complete when all images have been taken.

    Raises:
        FileNotFoundError: none of the sources exists, or a list does not.
        OptionError: a glob matches nothing, or no library reads addresses of a protocol.
    """

    def __init__(self, sources: Iterable[str], once: bool = True, seen: Any = None, image_column: str | None = None,
                 fetching: FetchOptions = FETCHING):
        self.once, self.image_column, self.fetching = once, image_column, fetching
        self.others: Counter[str] = Counter()
        self.repeated = 0
        self.empty: list[str] = []
        self._seen = set() if seen is None else seen
        self._reasons: dict[str, str] = {}  # why a folder could not be listed
        words = [word for source in sources for word in expand_braces(source)]
        missing = [word for word in words if not _is_known(word)]
        if len(missing) == len(words):
            _refuse_missing(missing)
        self._words = words

    def __iter__(self) -> Iterator[ImageEntry]:
        for file in self.files():
            yield from self.images_of(file)

    def files(self) -> Iterator[SourceFile]:
        """Yield the files in their order, none of them opened: to share them among machines."""
        number = 0
        for path in self._paths():
            if self._is_new(shown(path)):
                yield SourceFile(path, number, self._reasons.get(path, ''))
                number += 1

    def images_of(self, file: SourceFile) -> Iterator[ImageEntry]:
        """Yield the images of a file that `files` gave, of these or of equal sources in another process."""
        if not file.holds_several:
            yield ImageEntry(shown(file.path), file.path, (file.number, 0), error=file.error)
        elif is_shard(file.path):
            yield from self._shard(file.path, file.number)
        else:
            yield from self._rows(file.path, file.number)

    def _rows(self, path: str, number: int) -> Iterator[ImageEntry]:
        count = 0
        for entry in row_entries(path, number, self.image_column, self.fetching):
            count += 1
            yield entry
        self._tell_if_empty(shown(path), count)

    def _shard(self, path: str, number: int) -> Iterator[ImageEntry]:
        others: Counter[str] = Counter()
        of_name: Counter[str] = Counter()
        for entry in shard_entries(path, number, others, self.fetching):
            of_name[entry.name] += 1
            if of_name[entry.name] > 1:  # another picture: concatenated shards start counting again
                entry = replace(entry, name=f'{entry.name}{BETWEEN}{of_name[entry.name]}')
            yield entry
        self.others += others
        self._tell_if_empty(shown(path), len(of_name))

    def _is_new(self, name: str) -> bool:
        if self.once and name in self._seen:
            self.repeated += 1
            return False
        self._seen.add(name)
        return True

    def _tell_if_empty(self, name: str, count: int) -> None:
        if not count and name not in self.empty:
            self.empty.append(name)

    def _paths(self) -> Iterator[str]:
        for word in self._words:
            if word == STANDARD_INPUT:
                yield from self._listed(sys.stdin.buffer, 'standard input')
            elif os.path.exists(word):
                yield from self._below(word)
            elif is_address(word):
                yield from self._at(word)
            elif word.startswith(LIST_MARK) and is_address(word[len(LIST_MARK):]):
                name = shown(word[len(LIST_MARK):])
                try:
                    with open_address(word[len(LIST_MARK):], self.fetching) as lines:
                        yield from self._listed(lines, name)
                except FetchError as error:
                    raise FetchError(f'the list {name}: {first_line(error)}') from None
            elif word.startswith(LIST_MARK):
                with open(word[len(LIST_MARK):], 'rb') as lines:
                    yield from self._listed(lines, word[len(LIST_MARK):])
            elif glob.has_magic(word):
                yield from self._globbed(word)
            else:
                yield word  # missing: reading it reports that

    def _listed(self, lines: Iterable[bytes], name: str) -> Iterator[str]:
        count = 0
        for path in listed_paths(lines, name):
            count += 1
            if extension_of(path) in image_extensions():  # saves a look at the disk for each of millions
                yield path
            elif is_address(path):
                yield from self._at(path)
            else:
                yield from self._below(path)
        self._tell_if_empty(name, count)

    def _globbed(self, pattern: str) -> Iterator[str]:
        """Go through what a glob matches; its own extension, if it names one, is that of an image."""
        found = sorted(glob.iglob(pattern, recursive=True))
        if '**' in pattern:  # what is in the folders is matched by itself
            found = [path for path in found if not os.path.isdir(path)] or found
        extension = os.path.splitext(pattern)[1]
        named = extension and not glob.has_magic(extension)
        count = 0
        for path in found:
            if named or os.path.isdir(path) or _holds_images(path):
                for each in self._below(path, may_be_empty=True):  # a glob cannot know that one of its folders is empty
                    count += 1
                    yield each
            else:
                self.others[extension_of(path)] += 1
        self._tell_if_empty(pattern, count)

    def _below(self, path: str, may_be_empty: bool = False) -> Iterator[str]:
        if not os.path.isdir(path):
            yield path
            return
        try:
            saved = saved_dataset(path)
        except DataError as error:
            self._reasons[path], saved = first_line(error), [path]
        if saved is not None:
            yield from saved
            self._tell_if_empty(path, len(saved) + may_be_empty)
            return
        finder, count = ImageFinder([path]), 0
        for each in finder:
            count += 1
            yield each
        self.others += finder.other_extensions
        self._tell_if_empty(path, count + may_be_empty)


    def _at(self, address: str) -> Iterator[str]:
        """Go through what stands at an address: an image, a shard, a table, what a glob matches, or a folder."""
        pattern = not is_web(address) and glob.has_magic(address)
        if not pattern and (is_web(address) or _holds_images(address) or not is_folder(address, self.fetching)):
            yield address
            return
        others: Counter[str] = Counter()
        count = 0
        try:
            for each in matching(address, self.fetching) if pattern else walk(address, self.fetching):
                if _holds_images(each) if pattern else extension_of(each) in image_extensions():
                    count += 1
                    yield each
                else:
                    others[extension_of(each)] += 1
        except FetchError as error:
            self._reasons[address] = f'not all of it could be listed: {first_line(error)}'
            count += 1
            yield address
        self.others += others
        self._tell_if_empty(shown(address), count)


def count_ahead(sources: 'ImageSources | NamedImages') -> Callable[[], int | None]:
    """Return what tells how many images the sources have, once a thread beside the work has counted them.

    It tells nothing where the names can be read only once, cost requests, or stand for files with an unknown number of images.

    Args:
        sources: as yet untouched or not.
    """
    if isinstance(sources, NamedImages):
        known = len(sources.paths)
        return lambda: known
    words = list(sources._words)
    found: list[int] = []
    countable = all(word != STANDARD_INPUT and not is_address(word.removeprefix(LIST_MARK))
                    and (not word.startswith(LIST_MARK) or os.path.exists(word) or os.path.isfile(word[len(LIST_MARK):]))
                    for word in words)

    def count() -> None:
        with contextlib.suppress(OSError, DataError, OptionError):  # the work itself reports them
            number = 0
            for file in ImageSources(words, once=False, seen=_Forgetful()).files():
                if file.holds_several or is_address(file.path):
                    return
                number += 1
            found.append(number)

    if countable:
        threading.Thread(target=count, daemon=True).start()
    return lambda: found[0] if found else None


class _Forgetful(set[str]):
    """A set that stays empty: counting needs no memory."""

    def add(self, name: str) -> None:
        """Add nothing."""


def _holds_images(path: str) -> bool:
    """Whether a name is that of an image, a shard or a table of pictures."""
    return is_shard(path) or is_row_file(path) or extension_of(path) in image_extensions()


def expand_braces(text: str) -> list[str]:
    """Return what the braces of a word expand to, as in a shell; a file of exactly that name takes precedence.

    Example:
        >>> expand_braces('{a,b}-{08..10}.tar')
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']

    Raises:
        OptionError: a range runs backwards, or the braces expand to too many words.
    """
    if os.path.exists(text):
        return [text]
    pieces = re.split(r'\{([^{}]*(?:,|\.\.)[^{}]*)\}', text)
    choices = [_choices(piece) if index % 2 else [piece] for index, piece in enumerate(pieces)]
    if math.prod(map(len, choices)) > MOST_WORDS:
        raise OptionError(f'{text}: its braces expand to more than {MOST_WORDS} names. Give a list instead.')
    return [''.join(chosen) for chosen in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    found = re.fullmatch(r'(\d+)\.\.(\d+)', inside)
    if not found:
        return inside.split(',') if ',' in inside else [f'{{{inside}}}']
    first, last = found.groups()
    if int(first) > int(last):
        raise OptionError(f'{{{inside}}}: a range must not run backwards.')
    if int(last) - int(first) >= MOST_WORDS:
        raise OptionError(f'{{{inside}}}: a range must not have more than {MOST_WORDS} numbers. Give a list instead.')
    width = max(len(first), len(last)) if first.startswith('0') or last.startswith('0') else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def _is_known(word: str) -> bool:
    """Whether something of that name exists.

    Raises:
        OptionError: it is a glob that matches nothing.
        FileNotFoundError: it is a list that does not exist.
    """
    if word == STANDARD_INPUT or os.path.exists(word):
        return True
    if is_address(word.removeprefix(LIST_MARK)):
        check_protocol(word.removeprefix(LIST_MARK))
        return True  # as far as one can know without asking
    if word.startswith(LIST_MARK):
        if not os.path.exists(word[len(LIST_MARK):]) or os.path.isdir(word[len(LIST_MARK):]):  # a pipe may be a list
            raise FileNotFoundError(f'{word}: there is no list {word[len(LIST_MARK):]}')
        return True
    if not glob.has_magic(word):
        return False
    if next(glob.iglob(word, recursive=True), None) is None:
        raise OptionError(f'{word}: no file matches this pattern.')
    return True


def _refuse_missing(words: list[str]) -> None:
    if words:
        raise FileNotFoundError(f'{some(words)}: no such file or folder')
