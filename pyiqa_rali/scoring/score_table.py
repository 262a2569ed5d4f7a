"""The table of scores: one line for each image, including those without a score; interrupted runs continue it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.runs import CsvRows, JsonRows, RowFile

COLUMNS = ['image', 'score', 'error', 'metric']
SIGNIFICANT = 6  # digits of a score in a text; Parquet holds the number itself
REASONS = UNREADABLE, FAILED, NOT_FINITE = 'unreadable', 'failed', 'not_finite'  # why an image has no score


@dataclass
class ImageScore:
    """The score of one image, or why it has none.

    Attributes:
        image: path of the file, or `shard.tar::member`.
        score: what the metric returned; None when it could not be computed.
        error: why it could not; empty when it could.
        position: place in the order of the input.
        reason: one of `REASONS`, as long as the run lasts; empty when there is a score.
        further: what else was asked for, by the name of its column (see `further`); empty without a score.
    """

    image: str
    score: float | None = None
    error: str = ''
    position: tuple[int, int] = (0, 0)
    reason: str = ''
    further: dict[str, float] = field(default_factory=dict)


@dataclass
class ScoreRow:
    """A row of a table: an image's score and the metric that gave it."""

    score: ImageScore
    metric: str


class CsvLines(CsvRows):
    """Rows as lines of a CSV, numbers with six significant digits.

    Args:
        further: columns after the score.
    """

    def __init__(self, further: Sequence[str] = ()) -> None:
        super().__init__(columns_with(further), lambda cells: _of_cells(cells, further), _cells)


class JsonLines(JsonRows):
    """Rows as JSON objects, one per line, numbers with six significant digits.

    Args:
        positions: also write and read the positions in the input, and write all digits: for a table that is written from them.
        further: keys after the score.
    """

    def __init__(self, positions: bool = False, further: Sequence[str] = ()):
        digits = None if positions else SIGNIFICANT
        super().__init__([*columns_with(further), *(['position'] if positions else [])],
                         lambda values: row_of(values, further),
                         lambda row: {**row_values(row, further, digits), 'position': row.score.position})


def columns_with(further: Sequence[str]) -> list[str]:
    """Return the columns of a table in which others follow the score.

    Example:
        >>> columns_with(['low', 'high'])
        ['image', 'score', 'low', 'high', 'error', 'metric']
    """
    return [*COLUMNS[:2], *further, *COLUMNS[2:]]


def _cells(row: ScoreRow) -> dict[str, Any]:
    numbers = {'score': row.score.score, **row.score.further}
    return {**row_values(row), **{name: None if value is None else f'{value:.6g}'  # '3', where str(3.0) is '3.0'
                                  for name, value in numbers.items()}}


def _of_cells(cells: dict[str, str], further: Sequence[str]) -> ScoreRow:
    numbers = {name: float(cells[name]) if cells[name] else None for name in ('score', *further)}
    return row_of({**cells, **numbers}, further)


def row_of(values: Mapping[str, Any], further: Sequence[str] = ()) -> ScoreRow:
    """Return the row with these columns; see `row_values`."""
    first, second = values.get('position', (0, 0))
    known = {name: values[name] for name in further if values[name] is not None}
    return ScoreRow(ImageScore(values['image'], values['score'], values['error'], (first, second), further=known),
                    values['metric'])


def row_values(row: ScoreRow, further: Sequence[str] = (), digits: int | None = SIGNIFICANT) -> dict[str, Any]:
    """Return the columns of a row, numbers with so many significant digits, or with all of them."""
    numbers = {'score': row.score.score, **dict.fromkeys(further), **row.score.further}
    return {'image': row.score.image, 'error': row.score.error, 'metric': row.metric,
            **{name: value if value is None or digits is None else float(f'{value:.{digits}g}')
               for name, value in numbers.items()}}


class BestRows:
    """One row for each image of a table in which images without a score were tried again and may have several.

    A row with a score takes the place of rows without one, and among the latter the last one counts. It is where the first
    row of its image stood.

    Args:
        rows: returns them from the first one on, each time that it is called.
        stored: returns the name of an image as it is written in the table.

    Attributes:
        finished: the images with a row.
        failed: those of them without a score.
    """

    def __init__(self, rows: Callable[[], Iterator[ScoreRow]], stored: Callable[[str], str] = str):
        self._rows, self._stored = rows, stored
        self.finished: set[str] = set()
        self.failed: set[str] = set()
        self._better: dict[str, ScoreRow] = {}
        for row in rows():
            name = stored(row.score.image)
            if name not in self.finished:
                self.finished.add(name)
                if row.score.error:
                    self.failed.add(name)
            elif name in self.failed:  # a row without a score, and it was tried again
                self._better[name] = row
                if not row.score.error:
                    self.failed.remove(name)

    @property
    def repeated(self) -> bool:
        """Whether an image has several rows."""
        return bool(self._better)

    def __iter__(self) -> Iterator[ScoreRow]:
        seen: set[str] = set()
        for row in self._rows():
            name = self._stored(row.score.image)
            if name not in seen:
                seen.add(name)
                yield self._better.get(name, row)


class ScoreTable:
    """A table that grows by whole lines.

    Args:
        path: the file.
        metric: name of the metric, with its weights if they are the user's; written in every line.
        resume: continue the file if it exists.
        lines: the format.
        retry: try the images without a score again; their new rows take the place of the old ones when all are done.

    Attributes:
        finished: the images that are in it already, and are not tried again.
        failed: how many of these have no score.

    Raises:
        OptionError: the file is there and `resume` is not set, or it holds another metric.
        DataError: the file is not a table of scores.
    """

    def __init__(self, path: str | os.PathLike, metric: str, resume: bool = False, lines: CsvLines | JsonLines | None = None,
                 retry: bool = False):
        self.path, self.metric, self.lines = Path(path), metric, lines or CsvLines()
        refuse_overwriting(self.path, resume)
        self._file = score_file(self.path, self.lines)
        best = BestRows(self._checked)
        self.finished = best.finished - best.failed if retry else best.finished
        self.failed = 0 if retry else len(best.failed)
        self._repeats = retry or best.repeated  # of images that were tried again

    def _checked(self) -> Iterator[ScoreRow]:
        for row in self._file.resume():
            refuse_other_metric(row, self.metric, self.path)
            yield row

    def has(self, image: str) -> bool:
        """Whether an image is in the table already."""
        return image in self.finished

    def open(self) -> RowFile:
        """Return the file, a context manager that keeps it open for further lines."""
        return self._file

    def write(self, file: RowFile, scores: list[ImageScore]) -> None:
        """Add lines and hand them to the operating system."""
        file.add(ScoreRow(each, self.metric) for each in scores)


    def finish(self) -> int | None:
        """Keep one row for each image.

        Returns:
            How many images have no score; None where no image was tried again and the caller has counted all.
        """
        if not self._repeats:
            return None
        best = BestRows(lambda: read_rows(self.path, self.lines, self.metric))
        if best.repeated:
            self._file.replace(best)
        return len(best.failed)


def score_file(path: Path, lines: CsvLines | JsonLines) -> RowFile:
    """Return the file of a table or of a part of one; its rows are `ScoreRow`s."""
    return RowFile(path, lines, option='--out', kind='a table of scores')


def refuse_overwriting(path: Path, resume: bool) -> None:
    """Raise OptionError if a table exists and is not to be continued."""
    if path.exists() and not resume:
        raise OptionError(f'--out: {path} already exists. Give --resume to continue it, or another name.')


def read_rows(path: Path, lines: CsvLines | JsonLines, metric: str) -> Iterator[ScoreRow]:
    """Yield the rows of a file, leaving out an incomplete line at its end.

    Raises:
        DataError: the file is not a table of scores.
        OptionError: it holds another metric.
    """
    for row in score_file(path, lines).read():
        refuse_other_metric(row, metric, path)
        yield row


def refuse_other_metric(row: ScoreRow, metric: str, path: Path) -> None:
    """Raise OptionError if a row of a table is of another metric."""
    if row.metric != metric:
        raise OptionError(f'--out: {path} holds scores of {row.metric}, not of {metric}. Give another name.')
