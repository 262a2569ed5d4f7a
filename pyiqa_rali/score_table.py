"""The CSV of scores: one line for each image, also for those without a score; interrupted runs go on with it."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pyiqa_rali.errors import DataError, OptionError

COLUMNS = ['image', 'score', 'error', 'metric']
ENCODING = {'encoding': 'utf-8', 'errors': 'surrogateescape', 'newline': ''}  # file names need not be valid UTF-8
LONGEST_LINE = 1 << 20


@dataclass
class ImageScore:
    """The score of one image file, or why it has none.

    Attributes:
        image: path of the file.
        score: what the metric returned; None when it could not be computed.
        error: why it could not; empty when it could.
    """

    image: str
    score: float | None = None
    error: str = ''


class ScoreTable:
    """A CSV that grows by whole lines.

    Args:
        path: the file.
        metric: name of the metric, with its weights if they are the user's; stands in every line.
        resume: go on with the file if it is there.

    Attributes:
        finished: the images that stood in it already.
        failed: how many of these have no score.

    Raises:
        OptionError: the file is there and `resume` is not set, or it holds another metric.
        DataError: the file is not a table of scores.
    """

    def __init__(self, path: str | os.PathLike, metric: str, resume: bool = False):
        self.path, self.metric = Path(path), metric
        self.finished: set[str] = set()
        self.failed = 0
        if self.path.exists() and not resume:
            raise OptionError(f'--out: {path} is there already. Give --resume to go on with it, or another name.')
        if self.path.exists():
            self._read()
        if not self.path.exists() or self.path.stat().st_size == 0:
            self._start()

    def open(self) -> IO[str]:
        """Open the table for further lines."""
        return open(self.path, 'a', **ENCODING)

    def write(self, stream: IO[str], scores: list[ImageScore]) -> None:
        """Add lines and hand them to the operating system."""
        lines = csv.writer(stream)
        for each in scores:
            lines.writerow([each.image, '' if each.score is None else f'{each.score:.6g}', each.error, self.metric])
        stream.flush()

    def _start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, 'w', **ENCODING) as stream:
            csv.writer(stream).writerow(COLUMNS)

    def _read(self) -> None:
        self._refuse_other_files()
        cut_after_last_line(self.path)
        with open(self.path, **ENCODING) as stream:
            rows = csv.reader(stream)
            next(rows, None)
            for row in rows:
                self._check(row, rows.line_num)
                self.finished.add(row[0])
                self.failed += bool(row[2])

    def _refuse_other_files(self) -> None:
        with open(self.path, **ENCODING) as stream:
            first = stream.readline(LONGEST_LINE)
        header = ','.join(COLUMNS)
        if first.rstrip('\r\n') != header and (first.endswith('\n') or not f'{header}\r'.startswith(first)):
            raise DataError(f'--out: {self.path} is not a table of scores: its first line is {first.strip()[:80]!r}, not '
                            f'{header!r}. Give another name.')

    def _check(self, row: list[str], line: int) -> None:
        if len(row) != len(COLUMNS):
            raise DataError(f'--out: line {line} of {self.path} is damaged: {row}. Mend or remove it.')
        if row[3] != self.metric:
            raise OptionError(f'--out: {self.path} holds scores of {row[3]}, not of {self.metric}. Give another name.')


def cut_after_last_line(path: str | os.PathLike) -> None:
    """Remove what follows a file's last line end: the half line that a killed run left."""
    with open(path, 'rb+') as stream:
        size = stream.seek(0, os.SEEK_END)
        start = max(0, size - LONGEST_LINE)
        stream.seek(start)
        stream.truncate(start + stream.read().rfind(b'\n') + 1)
