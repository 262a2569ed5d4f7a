"""Which images of a table of scores clear a bar: a score, a share of the images, or the whole interval around a score."""

import array
import heapq
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.runs import CsvRows, JsonRows, RowFile
from pyiqa_rali.scoring.parts import parts_folder
from pyiqa_rali.scoring.tables import file_format

NEEDED = ('image', 'score', 'metric')
LOW, HIGH = 'low', 'high'
ROW_GROUP = 1 << 14


@dataclass(frozen=True)
class TableRow:
    """A row of a table of scores.

    Attributes:
        image: the name.
        score: None without one, or where it is not a finite number.
        metric: that gave it.
        low: the low end of the score's interval; None where the table has none.
        high: its high end.
    """

    image: str
    score: float | None
    metric: str
    low: float | None = None
    high: float | None = None


def table_rows(path: str | os.PathLike) -> Iterator[TableRow]:
    """Yield the rows of a table of scores, whatever columns it has besides its own.

    Args:
        path: CSV, JSON lines or Parquet as `pyiqa-rali score` writes them, or a folder of Parquet files, which are read in the
            order of their paths.

    Raises:
        DataError: it is not a table of scores.
        FileNotFoundError: it is not there.
        OptionError: its extension names no format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file or folder')
    if path.is_dir():
        files = sorted(path.rglob('*.parquet'))
        if not files:
            raise DataError(f'{path}: holds no Parquet file; give a table of pyiqa-rali score.')
        for file in files:
            yield from _checked(_parquet(file), file)
        return
    found = file_format(str(path), None)
    if found == 'parquet':
        yield from _checked(_parquet(path), path)
    else:
        lines = CsvRows() if found == 'csv' else JsonRows()
        yield from _checked(RowFile(path, lines, kind='a table of scores').read(), path)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet
    try:
        with parquet.ParquetFile(path) as file:
            wanted = [name for name in (*NEEDED, LOW, HIGH) if name in file.schema_arrow.names]
            for batch in file.iter_batches(ROW_GROUP, columns=wanted):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError(f'{path}: is not a Parquet file ({error}).') from error


def _checked(rows: Iterator[dict[str, Any]], path: Path) -> Iterator[TableRow]:
    for row in rows:
        missing = [name for name in NEEDED if name not in row]
        if missing:
            raise DataError(f'{path}: has no column {", ".join(missing)}; its columns are {", ".join(row)}. Give a table of '
                            'pyiqa-rali score.')
        try:
            yield TableRow(row['image'], _number(row['score']), row['metric'], _number(row.get(LOW)), _number(row.get(HIGH)))
        except ValueError as error:
            raise DataError(f'{path}: the row of {row["image"]} holds what is no number: {error}.') from error


def _number(value: Any) -> float | None:
    """Return a cell's number; None where it is empty or, as other programs write that, not finite."""
    found = None if value in (None, '') else float(value)
    return found if found is not None and math.isfinite(found) else None


@dataclass(frozen=True)
class Bar:
    """What an image has to clear to be kept.

    Attributes:
        value: of the score, or of the end of its interval.
        above: whether what lies above is kept; otherwise what lies below.
        surely: whether the whole interval must lie there.
        ties: how many images with exactly this value are kept, the first ones of the table: of a share.
    """

    value: float
    above: bool
    surely: bool = False
    ties: int = 0

    def measure(self, row: TableRow) -> float | None:
        """Return what is compared with the bar; None without a score."""
        if row.score is None or not self.surely:
            return row.score
        return row.low if self.above else row.high

    def clears(self, measure: float) -> bool:
        """Whether a value lies beyond the bar."""
        return measure > self.value if self.above else measure < self.value

    def __str__(self) -> str:
        what = ('the low end of the interval' if self.above else 'the high end of the interval') if self.surely else 'the score'
        side = 'above' if self.above else 'below'
        return f'{what} is {self.value:g} or {side}' if self.ties else f'{what} is {side} {self.value:g}'


@dataclass
class Selection:
    """The images of a table that are kept, and what was counted.

    Attributes:
        table: the file or folder.
        bar: what they clear.
        metric: that scored them.
        lowest: the lowest score of the table.
        highest: the highest one.
        kept: how many images are kept.
        left: how many have a score and are not kept.
        without: how many have no score; these are never kept.
        at_bar: how many stand exactly at the bar.
        just_above: kept images nearest to the bar, the nearest first.
        just_below: images nearest to it that are not kept.
    """

    table: Path
    bar: Bar
    metric: str
    lowest: float
    highest: float
    kept: int = 0
    left: int = 0
    without: int = 0
    at_bar: int = 0
    just_above: list[TableRow] = field(default_factory=list)
    just_below: list[TableRow] = field(default_factory=list)

    def rows(self) -> Iterator[TableRow]:
        """Yield the kept images in the order of the table, which is read anew."""
        return (row for row, keep in _decided(table_rows(self.table), self.bar) if keep)


def select(table: str | os.PathLike, *, above: float | None = None, below: float | None = None, best: float | None = None,
           worst: float | None = None, surely: bool = False, lower_better: bool | None = None, near: int = 0) -> Selection:
    """Choose images of a table of scores by one of four bars.

    Args:
        table: see `table_rows`.
        above: keep scores above this one.
        below: keep scores below this one.
        best: keep this share of the images with a score, in (0, 1]: those of the best quality. Of images with equal scores at
            the bar, the first ones of the table are taken.
        worst: the same with those of the worst quality.
        surely: with `above` or `below`, the whole interval around the score must lie there; the table has columns low and high.
        lower_better: with `best` or `worst`, whether low scores mean good quality.
        near: how many images just above and just below the bar are kept in mind, for a sheet.

    Raises:
        OptionError: not exactly one bar is given, or it cannot be applied to this table.
        DataError: it is not a finished table of scores of one metric.
    """
    given = {name: value for name, value in (('above', above), ('below', below), ('best', best), ('worst', worst))
             if value is not None}
    if len(given) != 1:
        raise OptionError('--above, --below, --best, --worst: give exactly one of them.')
    (name, value), = given.items()
    if not math.isfinite(value):
        raise OptionError(f'--{name}: {value} must be a finite number.')
    if surely and name in ('best', 'worst'):
        raise OptionError(f'--surely: goes with --above or --below, not with --{name}.')
    scores, metric = _read_scores(Path(table), surely)
    if name in ('best', 'worst'):
        if lower_better is None:
            raise OptionError(f'--{name}: whether high or low scores of {metric} are good is not known; give --better higher '
                              'or --better lower.')
        bar = _bar_of_share(scores, value, (name == 'best') != lower_better, name)
    else:
        bar = Bar(float(value), name == 'above', surely)
    return _counted(Path(table), bar, metric, scores, near)


def _read_scores(table: Path, surely: bool) -> tuple[np.ndarray, str]:
    """Return all scores, and the metric that gave them."""
    if parts_folder(table).exists():
        raise DataError(f'{table}: {parts_folder(table)} holds the rows of a run that was not finished. Finish it with score '
                        '--resume.')
    scores, metrics, names, count = array.array('d'), set(), set(), 0
    for row in table_rows(table):
        metrics.add(row.metric)
        names.add(hash(row.image))  # 8 bytes each, where names of a billion images would not fit
        count += 1
        if len(metrics) > 1:
            raise DataError(f'{table}: holds scores of several metrics, {" and ".join(sorted(metrics))}. Give a table of one.')
        if row.score is not None:
            scores.append(row.score)
            if surely and (row.low is None or row.high is None):
                raise OptionError(f'--surely: {table} has no interval for {row.image}. Score with --interval, or leave it out.')
    if len(names) < count:
        raise DataError(f'{table}: {count - len(names)} images have several rows: a run with --retry-failed was not finished. '
                        'Finish it with score --retry-failed.')
    if not scores:
        raise DataError(f'{table}: no image has a score; nothing can be selected.')
    return np.frombuffer(scores), metrics.pop()


def _bar_of_share(scores: np.ndarray, share: float, above: bool, name: str) -> Bar:
    if not 0 < share <= 1:
        raise OptionError(f'--{name}: {share:g} must be a share above 0 and up to 1, such as 0.1 or 10%.')
    count = int(share * len(scores) + 1e-9)
    if count < 1:
        raise OptionError(f'--{name}: {share:g} of {len(scores)} images is less than one image. Give a larger share.')
    ordered = np.partition(-scores if above else scores, count - 1)
    value = float(-ordered[count - 1] if above else ordered[count - 1])
    beyond = int((scores > value).sum() if above else (scores < value).sum())
    return Bar(value, above, ties=count - beyond)


def _decided(rows: Iterator[TableRow], bar: Bar) -> Iterator[tuple[TableRow, bool]]:
    ties = bar.ties
    for row in rows:
        measure = bar.measure(row)
        if measure is None:
            yield row, False
        elif measure == bar.value and ties:
            ties -= 1
            yield row, True
        else:
            yield row, bar.clears(measure)


def _counted(table: Path, bar: Bar, metric: str, scores: np.ndarray, near: int) -> Selection:
    found = Selection(table, bar, metric, float(scores.min()), float(scores.max()))
    nearest: dict[bool, list[tuple[float, int, TableRow]]] = {True: [], False: []}
    for place, (row, keep) in enumerate(_decided(table_rows(table), bar)):
        measure = bar.measure(row)
        if measure is None:
            found.without += 1
            continue
        found.kept, found.left = found.kept + keep, found.left + (not keep)
        found.at_bar += measure == bar.value
        if near:
            item = (-abs(measure - bar.value), -place, row)  # the heap's first is the farthest
            (heapq.heappush if len(nearest[keep]) < near else heapq.heappushpop)(nearest[keep], item)
    found.just_above, found.just_below = ([row for _, _, row in sorted(nearest[keep], key=lambda item: item[:2], reverse=True)]
                                          for keep in (True, False))
    return found


def share_of(text: str) -> float:
    """Return a share written as a fraction or in per cent.

    Example:
        >>> share_of('10%'), share_of('0.25')
        (0.1, 0.25)

    Raises:
        ValueError: it is neither, or not above 0 and up to 1.
    """
    share = float(text[:-1]) / 100 if text.endswith('%') else float(text)
    if not 0 < share <= 1:
        raise ValueError(f'{text} is not a share above 0 and up to 1, such as 0.1 or 10%')
    return share
