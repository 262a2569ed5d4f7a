"""Lists of images as programs, spreadsheets and Windows write them: one path per line."""

import codecs
import os
from collections.abc import Iterable, Iterator

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.addresses import is_address
from pyiqa_rali.data.image_formats import image_extensions

# The longer mark before the one that is its beginning.
UTF_16_OR_32 = ((codecs.BOM_UTF32_LE, 'utf-32-le'), (codecs.BOM_UTF32_BE, 'utf-32-be'), (codecs.BOM_UTF16_LE, 'utf-16-le'),
                (codecs.BOM_UTF16_BE, 'utf-16-be'))
WORKBOOKS = (b'PK\x03\x04', b'\xd0\xcf\x11\xe0')  # .xlsx and .ods are zip archives, .xls is a compound file
QUOTES = ('"', "'")


def listed_paths(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the path on each non-empty line, as lines arrive.

    Every system's line ends are accepted, as are byte-order marks, UTF-16 and UTF-32 with such a mark, quotes around a path,
    spaces after it and backslashes between folders: where a path as written does not exist, the disk decides what is meant.
        Names that are not valid UTF-8 stay as they are.

    Args:
        lines: of a list, as an opened file gives them.
        name: of the list, for errors.

    Raises:
        DataError: the list is not text; the message names the line.
    """
    for number, line in enumerate(_texts(lines, name), start=1):
        path = line.rstrip('\r\n')
        if '\0' in path:
            raise DataError(f'{name}, line {number}: holds zero bytes: a list has one path per line, in UTF-8, or in UTF-16 '
                            'with a byte-order mark (find without -print0).')
        if '\r' in path:
            raise DataError(f'{name}, line {number}: there is a carriage return within the line: end lines with a line feed.')
        if path.strip():
            yield meant_path(path)


def _texts(lines: Iterable[bytes], name: str) -> Iterator[str]:
    lines = iter(lines)
    first = next(lines, b'')
    if first.startswith(WORKBOOKS):
        raise DataError(f'{name}: is a spreadsheet file and not a list. Save the column of paths as text.')
    for mark, encoding in UTF_16_OR_32:
        if first.startswith(mark):
            yield from _decoded(first[len(mark):], lines, encoding, name)
            return
    yield os.fsdecode(first.removeprefix(codecs.BOM_UTF8))
    yield from map(os.fsdecode, lines)


def _decoded(first: bytes, lines: Iterator[bytes], encoding: str, name: str) -> Iterator[str]:
    """Yield the lines of UTF-16 or UTF-32, whose characters may hold the byte of a line end."""
    decoder = codecs.getincrementaldecoder(encoding)()
    text, number = '', 1

    def decoded(content: bytes, final: bool = False) -> str:
        try:
            return decoder.decode(content, final)
        except UnicodeDecodeError as error:
            raise DataError(f'{name}, line {number}: is not {encoding[:6].upper()} text, which its byte-order mark '
                            'promises.') from error

    for content in _chain(first, lines):
        text += decoded(content)
        *whole, text = text.split('\n')
        for line in whole:
            yield line
            number += 1
    yield text + decoded(b'', final=True)


def _chain(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def meant_path(path: str) -> str:
    """Return the path that a line means: as it is written, unless only another reading of it exists on disk.

    Example:
        >>> meant_path('photos/a.png')
        'photos/a.png'
    """
    if is_address(path.strip()):
        return path.strip()
    if is_address(unquoted(path.strip())):
        return unquoted(path.strip())
    plain = '\\' not in path and path[0] not in QUOTES and path == path.strip()
    if plain and os.path.splitext(path)[1].lower() in image_extensions():
        return path  # saves a disk access for each of millions of paths
    readings: list[str] = []
    for text in dict.fromkeys((path, path.strip(), unquoted(path.strip()))):
        readings += [text, text.replace('\\', '/')]
    return next((reading for reading in readings if os.path.exists(reading)), path)


def unquoted(text: str) -> str:
    """Return what is inside the quotes around a text; doubled quotes mean one, as spreadsheets write them."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in QUOTES:
        return text[1:-1].replace(text[0] * 2, text[0])
    return text
