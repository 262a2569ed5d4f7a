"""Tables as spreadsheets, Windows and other tools write them: read, or rejected with file and line.

Recognised without any option: UTF-8 and UTF-16 with a byte-order mark, UTF-8 without one; commas, semicolons or tabs between
cells; decimal commas; Excel's `sep=;` line; empty lines at the end. Anything ambiguous is rejected.
"""

import csv
import io
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyiqa_rali.core.errors import DataError

SEPARATORS = {',': 'commas', ';': 'semicolons', '\t': 'tabs'}
ENCODINGS = ((b'\xef\xbb\xbf', 'utf-8-sig'), (b'\xff\xfe\x00\x00', 'utf-32'), (b'\x00\x00\xfe\xff', 'utf-32'),
             (b'\xff\xfe', 'utf-16'), (b'\xfe\xff', 'utf-16'))  # the longer mark before the one that is its beginning
WORKBOOKS = (b'PK\x03\x04', b'\xd0\xcf\x11\xe0')  # .xlsx and .ods are zip archives, .xls is a compound file
JSON = ('{"', '[{', '[\n', '{\n')
LARGEST_CELL = 2 ** 24
SHOWN = 60  # characters of a cell in a message

_EXCEL = re.compile(r'"?sep=([;,\t])"?[;,\t\r ]*')
_POINT = re.compile(r'[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?')
_COMMA = re.compile(r'[+-]?[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?')
_THOUSANDS = re.compile(r'[+-]?[1-9][0-9]{0,2},[0-9]{3}')  # 1,520: about one and a half thousand, or about one and a half?


@dataclass
class DelimitedTable:
    """The cells of a table.

    Attributes:
        path: the file.
        columns: the headings, without spaces around them.
        rows: each with as many cells as there are headings, as they are written; rows without any content are left out.
        lines: the line of the file on which each row begins, counted from 1.
        separator: what separates two cells.
    """

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int] = field(default_factory=list)
    separator: str = ','

    def where(self, row: int) -> str:
        """Return the file and line of a row, for messages."""
        return f'{self.path}, line {self.lines[row]}'

    def cells(self, column: int) -> list[str]:
        """Return a column as it is written."""
        return [row[column] for row in self.rows]

    def numbers(self, column: int) -> list[float]:
        """Return a column of finite numbers, with decimal points or decimal commas.

        Raises:
            DataError: a cell is not a number, points and commas are mixed, or a comma may separate thousands.
        """
        return numbers(self.cells(column), [self.where(row) for row in range(len(self.rows))], self.columns[column])


def read_delimited(path: str | os.PathLike, least_columns: int = 2) -> DelimitedTable:
    """Read a table with a line of headings.

    Args:
        path: the file.
        least_columns: a file with fewer is not such a table.

    Raises:
        DataError: the file cannot be read as one; the message names file and line.
    """
    path = Path(path)
    text = read_text(path)
    first, _, rest = text.partition('\n')
    start = 1
    named = _EXCEL.fullmatch(first)
    if named:
        text, start = rest, 2
    if not text.strip():
        raise DataError(f'{path}: is empty. A table has a line of headings, such as image,mos, and a line for each image.')
    if text.lstrip().startswith(JSON):
        raise DataError(f'{path}: holds JSON and no table. A list, or lines, of {{"image": ..., "gt_score": ...}} is read by a '
                        'data set with type: ManifestNRDataset and format: deqa.')
    separator = named.group(1) if named else _separator(path, text, start, least_columns)
    (_, columns), *rows = _records(path, text, separator, start)
    columns = [name.strip() for name in columns]
    while columns and not columns[-1]:  # spreadsheets also write empty columns that were used once
        columns.pop()
    if len(columns) < least_columns:
        raise DataError(f'{path}, line {start}: {_shown(first)} has {len(columns)} columns between '
                        f'{SEPARATORS.get(separator, repr(separator))}, and {least_columns} are needed.')
    found = DelimitedTable(path, columns, [], [], separator)
    for line, cells in rows:
        if any(cell.strip() for cell in cells):
            found.rows.append(_fitted(f'{path}, line {line}', cells, len(columns), separator))
            found.lines.append(line)
    if not found.rows:
        raise DataError(f'{path}: has headings ({", ".join(columns)}) and no row below them.')
    return found


def read_text(path: str | os.PathLike) -> str:
    """Return the text of a file: UTF-8, or UTF-16 and UTF-32 with their byte-order mark.

    Raises:
        DataError: there is no such file, or it is not text in these encodings; the message names file and line.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror or error}).') from error
    if content.startswith(WORKBOOKS):
        raise DataError(f'{path}: is a spreadsheet file. Save the sheet as "CSV UTF-8".')
    encoding = next((name for mark, name in ENCODINGS if content.startswith(mark)), 'utf-8')
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b'\n') + 1
        raise DataError(f'{path}, line {line}: is not {encoding.removesuffix("-sig").upper()} text '
                        f'(byte 0x{content[error.start]:02x}). Save it as "CSV UTF-8".') from error
    if '\0' in text:
        line = text[:text.index('\0')].count('\n') + 1
        raise DataError(f'{path}, line {line}: holds zero bytes: it is not text, or it is UTF-16 without a byte-order mark. '
                        'Save it as "CSV UTF-8".')
    return text


def numbers(cells: Sequence[str], where: Sequence[str], column: str) -> list[float]:
    """Return the finite numbers that cells of one column hold.

    Args:
        cells: as they are written.
        where: file and line of each, for messages.
        column: its heading, for messages.

    Raises:
        DataError: a cell is not a number, decimal points and decimal commas are mixed, or a comma may separate thousands.

    Example:
        >>> numbers(['1,5', '2'], ['a.csv, line 2', 'a.csv, line 3'], 'mos')
        [1.5, 2.0]
    """
    stripped = [cell.strip() for cell in cells]
    commas = [number for number, cell in enumerate(stripped) if _COMMA.fullmatch(cell)]
    if commas:
        points = [number for number, cell in enumerate(stripped) if '.' in cell]
        if points:
            raise DataError(f'{where[commas[0]]}: "{column}" is {_shown(cells[commas[0]])}, and {_shown(cells[points[0]])} '
                            f'at {where[points[0]]}: a decimal comma and a decimal point in one column. Write all of them '
                            'alike.')
        if all(_THOUSANDS.fullmatch(stripped[number]) for number in commas):
            raise DataError(f'{where[commas[0]]}: "{column}" is {_shown(cells[commas[0]])}: its comma may be decimal or '
                            'part thousands. Write a decimal point, and no mark between thousands.')
    return [_number(cell, place, column) for cell, place in zip(stripped, where, strict=True)]


def _number(cell: str, where: str, column: str) -> float:
    plain = cell.replace(',', '.') if _COMMA.fullmatch(cell) else cell
    value = float(plain) if _POINT.fullmatch(plain) else math.nan  # float() alone also takes 1_000 and "infinity"
    if not math.isfinite(value):
        raise DataError(f'{where}: "{column}" is {_shown(cell)}; it must be a finite number.')
    return value


def _separator(path: Path, text: str, start: int, least_columns: int) -> str:
    """Return what separates the cells: what separates the headings, and where several do, what separates all rows alike."""
    wide = {}
    for separator in SEPARATORS:
        try:
            records = _records(path, text, separator, start)
        except DataError:
            records = [(start, next(csv.reader([text.split('\n', 1)[0]], delimiter=separator), []))]
        if len(records[0][1]) >= least_columns:
            wide[separator] = {len(cells) for _, cells in records if any(cell.strip() for cell in cells)}
    even = [separator for separator, widths in wide.items() if len(widths) == 1]
    found = even if len(even) == 1 else list(wide)
    if len(found) == 1:
        return found[0]
    head = _shown(text.split('\n', 1)[0])
    if not found:
        raise DataError(f'{path}, line {start}: {head} holds no {least_columns} headings between commas, semicolons or '
                        'tabs, such as image,mos.')
    raise DataError(f'{path}, line {start}: {head} can be split at {" and at ".join(SEPARATORS[each] for each in found)}. '
                    'Put headings that hold such a mark in quotation marks.')


def _records(path: Path, text: str, separator: str, start: int) -> list[tuple[int, list[str]]]:
    """Return the line on which each record begins, and its cells."""
    before = csv.field_size_limit(LARGEST_CELL)
    found, line = [], start
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=separator, strict=True)
    try:
        for cells in reader:
            found.append((line, cells))
            line = start + reader.line_num
    except csv.Error as error:
        raise DataError(f'{path}, line {line}: cannot be read ({error}). Quotation marks open and close a whole cell; '
                        'within one they are written twice.') from error
    finally:
        csv.field_size_limit(before)
    return found


def _fitted(where: str, cells: list[str], width: int, separator: str) -> list[str]:
    """Return a row with as many cells as there are headings; only empty cells are added or removed."""
    if any(cell.strip() for cell in cells[width:]):
        raise DataError(f'{where}: has {len(cells)} cells for {width} headings ({_shown(separator.join(cells))}). A cell '
                        f'that holds one of the {SEPARATORS.get(separator, "marks")} between cells must be in quotation '
                        'marks.')
    return [*cells[:width], *[''] * (width - len(cells))]


def _shown(text: str) -> str:
    """Return text for a message, in quotation marks and not too long."""
    text = text.rstrip('\r')
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + '...')
