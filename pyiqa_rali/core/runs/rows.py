"""Results that arrive one by one: files that grow by whole rows, of which a kill can cost only the last."""

import contextlib
import csv
import io
import json
import operator
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.files import atomic_open
from pyiqa_rali.core.tables import csv_line

LONGEST_FIRST_LINE = 1 << 20  # bytes that are read of a file of another kind

Row = dict[str, Any]


class Lines(Protocol):
    """How rows are written: `CsvRows` or `JsonRows`."""

    head: bytes
    start: bytes

    def encode(self, row: Any) -> bytes:
        """Return a row as it is written in the file, with its line end."""

    def read(self, stream: IO[bytes]) -> Iterator[tuple[Any, int]]:
        """Yield each whole row from the start of a file, and the byte at which it ends."""


class _DamagedRow(ValueError):
    """A row in the middle of a file that cannot be read: its line and content."""


class CsvRows:
    """Rows as a CSV with a header. A quoted cell may hold line ends: a row can take several lines of the file.

    Args:
        columns: of the header, in this order; None, for reading only, takes those of the file.
        parse: turns the texts of a row, by column, into the row; ValueError or KeyError says that it is damaged. None returns
            the texts.
        values: turns a row into its cells by column; omitted columns are empty. None takes the row itself.

    Attributes:
        head: what a new file starts with.
        start: what every file starts with, apart from its kind of line end.
    """

    def __init__(self, columns: Sequence[str] | None = None, parse: Callable[[dict[str, str]], Any] | None = None,
                 values: Callable[[Any], Mapping[str, Any]] | None = None):
        self.columns, self._parse, self._values = columns, parse or dict, values or dict
        self.head = b'' if columns is None else csv_line(columns, '\r\n').encode()
        self.start = self.head.rstrip()

    def encode(self, row: Any) -> bytes:
        """Return a row as it is written in the file."""
        cells, columns = self._values(row), self.columns or ()
        unknown = set(cells) - set(columns)
        if unknown:
            raise KeyError(f'no such columns: {", ".join(sorted(unknown))}')
        return csv_line((cells.get(column) for column in columns), '\r\n').encode('utf-8', 'surrogateescape')

    def read(self, stream: IO[bytes]) -> Iterator[tuple[Any, int]]:
        """Yield whole rows below the header, and where they end."""
        lines = _WholeLines(stream)
        reader = csv.reader(lines)
        columns: list[str] | None = None
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise _DamagedRow(reader.line_num, error) from error
            if cells is None:
                return
            if lines.ended:  # the lines ended within a row: it was cut inside a quoted cell
                _refuse_swallowed_rows(start, cells, columns or cells)
                return
            if columns is None:
                columns = cells
            elif cells:  # an empty line holds no row
                try:
                    row = self._parse(dict(zip(columns, cells, strict=True)))
                except (ValueError, KeyError, TypeError) as error:
                    raise _DamagedRow(reader.line_num, cells) from error
                yield row, lines.place


def _refuse_swallowed_rows(line: int, cells: list[str], columns: list[str]) -> None:
    """Raise _DamagedRow where the last cell holds whole rows: a stray quote opened it, and not a kill.

    Args:
        line: at which the row starts.
        cells: of the row; the last one reaches to the end of the file.
        columns: of the file.
    """
    swallowed = cells[-1].split('\n')[1:-1]
    if sum(len(row) == len(columns) for row in csv.reader(swallowed)) > 1:
        raise _DamagedRow(line, f'a quote is opened and never closed: {",".join(cells)[:80]!r}')


class _WholeLines:
    """The lines of a stream as text; a last line without an end is left out.

    Attributes:
        place: how many bytes of the stream the lines so far take.
        ended: whether more lines were asked for than there are.
    """

    def __init__(self, stream: IO[bytes]):
        self._stream, self.place, self.ended = stream, 0, False

    def __iter__(self) -> '_WholeLines':
        return self

    def __next__(self) -> str:
        line = self._stream.readline()
        if not line.endswith(b'\n'):
            self.ended = True
            raise StopIteration
        self.place += len(line)
        return line.decode('utf-8', 'surrogateescape')


class JsonRows:
    """Rows as JSON objects, one per line.

    Args:
        keys: that each row has, in this order; None allows any.
        parse: turns an object into the row; ValueError, KeyError or TypeError says that it is damaged. None returns the object.
        values: turns a row into the object. None takes the row itself.

    Attributes:
        head: what a new file starts with: nothing.
        start: what every row starts with.
    """

    head = b''

    def __init__(self, keys: Sequence[str] | None = None, parse: Callable[[dict[str, Any]], Any] | None = None,
                 values: Callable[[Any], Mapping[str, Any]] | None = None):
        self._keys, self._parse, self._values = keys, parse or dict, values or dict
        self.start = b'{"' if keys is None else f'{{"{keys[0]}": '.encode()

    def encode(self, row: Any) -> bytes:
        """Return a row in UTF-8, whatever texts it holds."""
        values = self._values(row)
        if self._keys is not None:
            values = {key: values[key] for key in self._keys}
        try:
            return f'{json.dumps(values, ensure_ascii=False)}\n'.encode()
        except UnicodeEncodeError:  # the name of a file that is not valid UTF-8: escapes can hold it
            return f'{json.dumps(values)}\n'.encode()

    def read(self, stream: IO[bytes]) -> Iterator[tuple[Any, int]]:
        """Yield whole rows, and where they end."""
        place = 0
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b'\n'):
                return
            place += len(line)
            if line.isspace():
                continue
            try:
                row = json.loads(line)
                if self._keys is not None and set(row) != set(self._keys):
                    raise KeyError(f'must have {", ".join(self._keys)}')
                yield self._parse(row), place
            except (ValueError, KeyError, TypeError) as error:
                raise _DamagedRow(number, line.decode('utf-8', 'replace').strip()[:80]) from error


class RowFile:
    """A file of rows that grows by whole rows, for work that may be killed at any moment and is resumed later.

    A row is in the file once `add` has returned. A last row that a killed process left incomplete is never read; `resume`
    removes it before further rows follow. Used as a context manager, the file stays open between additions.

    Args:
        path: the file.
        lines: how rows are written.
        durable: flush rows to disk, so that they survive a power failure and not only the end of the process.
        option: the option or argument that named the file, for messages.
        kind: what the file is, for messages.
    """

    def __init__(self, path: str | os.PathLike, lines: Lines, *, durable: bool = False, option: str = '',
                 kind: str = 'a table of ours'):
        self.path, self.lines, self.durable = Path(path), lines, durable
        self._prefix, self._kind = f'{option}: ' if option else '', kind
        self._ready = False
        self._stream: io.FileIO | None = None

    def read(self) -> Iterator[Any]:
        """Yield every whole row without changing the file: another process may be adding rows.

        Raises:
            DataError: the file is of another kind, or a row is damaged; the message names the line.
        """
        return (row for row, _ in self._read())

    def resume(self) -> Iterator[Any]:
        """Yield every whole row; when all have been taken, the file exists, ends with the last one, and can be added to.

        Raises:
            DataError: see `read`; the file stays as it is.
        """
        last = 0
        for row, end in self._read():
            last = end
            yield row
        self._end_at(last)

    def add(self, rows: Iterable[Any]) -> None:
        """Append rows.

        Raises:
            OSError: they cannot be written; the message names the file.
        """
        self._make_ready()
        content = memoryview(b''.join(map(self.lines.encode, rows)))
        self._ready = False  # until everything is written: an interrupted addition may leave half a row
        try:
            with self._opened() as stream:
                while content:
                    content = content[stream.write(content):]
                if self.durable:
                    os.fsync(stream.fileno())
        except OSError as error:
            self.__exit__()
            raise OSError(error.errno, f'cannot write {self.path}: {error.strerror or error}') from error
        self._ready = True

    def replace(self, rows: Iterable[Any]) -> None:
        """Write the whole file anew, atomically; `rows` may come from the file itself."""
        with atomic_open(self.path, 'wb') as stream:
            stream.write(self.lines.head)
            stream.writelines(map(self.lines.encode, rows))
        self._ready = True

    def __enter__(self) -> 'RowFile':
        self._make_ready()
        self._stream = open(self.path, 'ab', buffering=0)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _make_ready(self) -> None:
        if not self._ready:
            for _ in self.resume():
                pass

    @contextlib.contextmanager
    def _opened(self) -> Iterator[io.FileIO]:
        if self._stream is not None:
            yield self._stream
            return
        with open(self.path, 'ab', buffering=0) as stream:
            yield stream

    def _read(self) -> Iterator[tuple[Any, int]]:
        if not self.path.exists():
            return
        with open(self.path, 'rb') as stream:
            self._refuse_other_files(stream)
            stream.seek(0)
            try:
                yield from self.lines.read(stream)
            except _DamagedRow as error:
                line, content = error.args
                raise DataError(f'{self._prefix}line {line} of {self.path} is damaged: {content}. Fix or remove '
                                'it.') from error

    def _refuse_other_files(self, stream: IO[bytes]) -> None:
        """Raise DataError unless the first line is that of such a file, or the part of it that a kill has left."""
        first, start = stream.readline(LONGEST_FIRST_LINE), self.lines.start
        fits = first.rstrip(b'\r\n') == start if self.lines.head else first.startswith(start)
        if not fits and (first.endswith(b'\n') or not (start + b'\r').startswith(first)):
            shown = first.strip()[:80].decode('utf-8', 'replace')
            raise DataError(f'{self._prefix}{self.path} is not {self._kind}: its first line is {shown!r}, not '
                            f'{start.decode()!r}{"" if self.lines.head else " and so on"}. Give another name.')

    def _end_at(self, end: int) -> None:
        """Remove what follows the last whole row; a file without any is started again."""
        if end == 0:
            self.replace([])
        elif self.path.stat().st_size > end:
            os.truncate(self.path, end)
        self._ready = True


class KeyedRows:
    """JSON rows in memory and in a file, each identified by a key; the rows of an earlier run are there already.

    Args:
        path: the file.
        key: a function that returns a row's key, or the name of the key in the row.
        durable: see `RowFile`.

    Attributes:
        done: the rows by key, in the order in which they came.
    """

    def __init__(self, path: Path, key: str | Callable[[Row], Hashable] = 'key', *, durable: bool = True):
        self.path = path
        self._key = operator.itemgetter(key) if isinstance(key, str) else key
        self._file = RowFile(path, JsonRows(), durable=durable)
        self.done: dict[Hashable, Row] = {self._key(row): row for row in self._file.resume()}

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self._file.add(rows)
        self.done.update({self._key(row): row for row in rows})


def rows_of_steps(path: Path, columns: Sequence[str], start_step: int) -> RowFile:
    """Return a CSV of steps, ready for the rows from `start_step` on: later rows of an interrupted run are dropped.

    Args:
        path: the file; columns that an earlier version wrote and this one does not are kept.
        columns: besides 'step', which comes first.
        start_step: the step from which the run continues; 0 starts the file again.
    """
    kept = [row for row in RowFile(path, CsvRows(), kind='a record of steps').read() if int(row['step']) < start_step]
    file = RowFile(path, CsvRows(list(dict.fromkeys(['step', *columns, *(kept[0] if kept else ())]))))
    file.replace(kept)
    return file
