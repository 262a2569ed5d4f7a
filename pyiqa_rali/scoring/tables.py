"""The table of a run: its format, and whether it grows in place or is assembled at the end."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.scoring.parts import Parquet, ScoreParts, WholeLines, parts_folder
from pyiqa_rali.scoring.score_table import CsvLines, ImageScore, JsonLines, ScoreTable, score_file

FORMATS = ('csv', 'jsonl', 'parquet')


def file_format(path: str, chosen: str | None) -> str:
    """Return the format of a table: the chosen one, or the one that its extension names.

    Raises:
        OptionError: the extension names none, or Parquet cannot be written here.
    """
    extension = os.path.splitext(path)[1].lower().lstrip('.')
    found = chosen or extension
    if found not in FORMATS:
        raise OptionError(f'--out: the extension of {path} names no format; let it end with '
                          f'{", ".join("." + name for name in FORMATS)}, or give --format.')
    if found == 'parquet' and importlib.util.find_spec('pyarrow') is None:
        raise OptionError('--out: Parquet needs pyarrow: pip install pyarrow. Or write .csv or .jsonl.')
    return found


def holds_metric(path: str, chosen: str | None, metric: str, further: Sequence[str] = ()) -> bool:
    """Whether a table, or a part of it, is there and holds scores of a metric of this name."""
    whole = Parquet(further) if file_format(path, chosen) == 'parquet' else None
    lines = CsvLines(further) if file_format(path, chosen) == 'csv' else JsonLines(further=further)
    readers = [(Path(path), whole or WholeLines(lines, metric))]
    readers += [(part, WholeLines(JsonLines(positions=True, further=further), metric))
                for part in sorted(parts_folder(path).glob('*.jsonl'))]
    for file, reader in readers:
        with contextlib.suppress(OptionError, DataError, ValueError, OSError, StopIteration):
            if next(reader.read(file)).metric == metric:
                return True
    return False


def read_table(path: str, chosen: str | None, further: Sequence[str] = ()) -> Iterator[ImageScore]:
    """Yield the images of a finished table, in its order.

    Args:
        path: the table.
        chosen: its format; None takes it from the extension.
        further: its columns after the score.

    Raises:
        DataError: it is not a table of scores.
    """
    found = file_format(path, chosen)
    rows = Parquet(further).read(Path(path)) if found == 'parquet' else score_file(
        Path(path), CsvLines(further) if found == 'csv' else JsonLines(further=further)).read()
    for row in rows:
        yield row.score


def open_table(path: str, chosen: str | None, metric: str, resume: bool, retry: bool = False,
               further: Sequence[str] = ()) -> ScoreTable | ScoreParts:
    """Return the table that a run writes to.

    Args:
        path: the table.
        chosen: its format; None takes it from the extension.
        metric: name of the metric, written in every row.
        resume: continue what exists.
        retry: try the images without a score again.
        further: columns after the score.

    Raises:
        OptionError: it exists and is not to be continued, or holds another metric, or has no known format.
        DataError: it is not a table of scores.
    """
    found = file_format(path, chosen)
    if found == 'parquet':
        return ScoreParts(path, metric, resume, Parquet(further), retry)
    lines = CsvLines(further) if found == 'csv' else JsonLines(further=further)
    if parts_folder(path).exists():  # of several processes, which shared the images in version 0.1
        return ScoreParts(path, metric, resume, WholeLines(lines, metric, further), retry)
    return ScoreTable(path, metric, resume, lines, retry)
