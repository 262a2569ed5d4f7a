"""The table of scores: one line for each image, also for those without a score; interrupted runs go on with it."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pyiqa_rali.core.errors import DataError, OptionError

COLUMNS = ['image', 'score', 'error', 'metric']
ENCODING = {'encoding': 'utf-8', 'errors': 'surrogateescape', 'newline': ''}  # file names need not be valid UTF-8
LONGEST_LINE = 1 << 20


@dataclass
class ImageScore:
    """The score of one image, or why it has none.

    Attributes:
        image: path of the file, or `shard.tar::member`.
        score: what the metric returned; None when it could not be computed.
        error: why it could not; empty when it could.
        position: place in the order of the input.
    """

    image: str
    score: float | None = None
    error: str = ''
    position: tuple[int, int] = (0, 0)


@dataclass
class ScoreRow:
    """A row of a table: an image's score and the metric that gave it."""

    score: ImageScore
    metric: str


class CsvLines:
    """Rows as lines of a CSV."""

    header = ','.join(COLUMNS)

    def write(self, stream: IO[str], rows: list[ScoreRow]) -> None:
        """Write rows, scores with six significant digits."""
        lines = csv.writer(stream)
        for row in rows:
            value = '' if row.score.score is None else f'{row.score.score:.6g}'
            lines.writerow([row.score.image, value, row.score.error, row.metric])

    def read(self, stream: IO[str]) -> Iterator[ScoreRow]:
        """Yield the rows below the header.

        Raises:
            ValueError: a row is damaged; the message tells where.
        """
        lines = csv.reader(stream)
        next(lines, None)
        for values in lines:
            if len(values) != len(COLUMNS):
                raise ValueError(f'line {lines.line_num}', values)
            image, value, error, metric = values
            yield ScoreRow(ImageScore(image, float(value) if value else None, error), metric)


class JsonLines:
    """Rows as JSON objects, one a line.

    Args:
        positions: write and read the places in the input too.
    """

    header = ''

    def __init__(self, positions: bool = False):
        self.positions = positions

    def write(self, stream: IO[str], rows: list[ScoreRow]) -> None:
        """Write rows, scores with six significant digits."""
        for row in rows:
            record = row_values(row)
            if self.positions:
                record['position'] = row.score.position
            stream.write(_json(record) + '\n')

    def read(self, stream: IO[str]) -> Iterator[ScoreRow]:
        """Yield the rows.

        Raises:
            ValueError: a row is damaged; the message tells where.
        """
        for number, line in enumerate(stream, start=1):
            if not line.endswith('\n'):  # another process is writing it, or was killed
                return
            try:
                record = json.loads(line)
                position = tuple(record.pop('position')) if self.positions else (0, 0)
                metric = record.pop('metric')
                yield ScoreRow(ImageScore(**record, position=position), metric)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f'line {number}', line.strip()[:80]) from None


def row_values(row: ScoreRow) -> dict[str, Any]:
    """Return the columns of a row, the score with six significant digits."""
    score = row.score.score
    values = (row.score.image, None if score is None else float(f'{score:.6g}'), row.score.error, row.metric)
    return dict(zip(COLUMNS, values, strict=True))


def _json(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not valid UTF-8: every line must be
        return json.dumps(record)
    return text


class ScoreTable:
    """A table that grows by whole lines.

    Args:
        path: the file.
        metric: name of the metric, with its weights if they are the user's; stands in every line.
        resume: go on with the file if it is there.
        lines: the format.

    Attributes:
        finished: the images that stood in it already.
        failed: how many of these have no score.

    Raises:
        OptionError: the file is there and `resume` is not set, or it holds another metric.
        DataError: the file is not a table of scores.
    """

    def __init__(self, path: str | os.PathLike, metric: str, resume: bool = False, lines: CsvLines | JsonLines | None = None):
        self.path, self.metric, self.lines = Path(path), metric, lines or CsvLines()
        self.finished: set[str] = set()
        self.failed = 0
        refuse_overwriting(self.path, resume)
        if self.path.exists():
            refuse_other_files(self.path, self.lines.header)
            cut_after_last_line(self.path)
            for row in read_rows(self.path, self.lines, metric):
                self.finished.add(row.score.image)
                self.failed += bool(row.score.error)
        if not self.path.exists() or self.path.stat().st_size == 0:
            self._start()

    def has(self, image: str) -> bool:
        """Whether an image stood in the table already."""
        return image in self.finished

    def open(self) -> IO[str]:
        """Open the table for further lines."""
        return open(self.path, 'a', **ENCODING)

    def write(self, stream: IO[str], scores: list[ImageScore]) -> None:
        """Add lines and hand them to the operating system."""
        self.lines.write(stream, [ScoreRow(each, self.metric) for each in scores])
        stream.flush()

    def _start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, 'w', **ENCODING) as stream:
            stream.write(f'{self.lines.header}\r\n' if self.lines.header else '')


def refuse_overwriting(path: Path, resume: bool) -> None:
    """Raise OptionError if there is a table that shall not be gone on with."""
    if path.exists() and not resume:
        raise OptionError(f'--out: {path} is there already. Give --resume to go on with it, or another name.')


def read_rows(path: Path, lines: CsvLines | JsonLines, metric: str) -> Iterator[ScoreRow]:
    """Yield the rows of a file, leaving out a half line at its end.

    Raises:
        DataError: the file is not a table of scores.
        OptionError: it holds another metric.
    """
    refuse_other_files(path, lines.header)
    try:
        with open(path, **ENCODING) as stream:
            for row in lines.read(stream):
                if row.metric != metric:
                    raise OptionError(f'--out: {path} holds scores of {row.metric}, not of {metric}. Give another name.')
                yield row
    except OptionError:
        raise
    except (ValueError, csv.Error) as error:
        where, content = error.args if len(error.args) == 2 else ('a line', str(error))
        raise DataError(f'--out: {where} of {path} is damaged: {content}. Mend or remove it.') from error


def refuse_other_files(path: Path, header: str) -> None:
    """Raise DataError if a file does not start as a table of scores does, or as one that was cut off there."""
    with open(path, **ENCODING) as stream:
        first = stream.readline(LONGEST_LINE)
    wanted = header or '{"image": '
    fits = first.rstrip('\r\n') == header if header else first.startswith(wanted)
    if not fits and (first.endswith('\n') or not f'{wanted}\r'.startswith(first)):
        raise DataError(f'--out: {path} is not a table of scores: its first line is {first.strip()[:80]!r}, not '
                        f'{wanted!r}{"" if header else " and so on"}. Give another name.')


def cut_after_last_line(path: Path) -> None:
    """Remove what follows a file's last line end: the half line that a killed run left."""
    with open(path, 'rb+') as stream:
        size = stream.seek(0, os.SEEK_END)
        start = max(0, size - LONGEST_LINE)
        stream.seek(start)
        stream.truncate(start + stream.read().rfind(b'\n') + 1)
