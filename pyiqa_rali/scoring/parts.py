"""Tables that are written at the end, atomically, from a part that grows line by line: Parquet.

The part is kept as JSON lines in the folder `TABLE.parts`; after a kill at any moment the next run continues it. The folder may
hold several: in version 0.1, several processes shared the images of a table of any format.
"""

import contextlib
import heapq
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.core.runs import RowFile
from pyiqa_rali.scoring.score_table import (
    BestRows,
    CsvLines,
    ImageScore,
    JsonLines,
    ScoreRow,
    ScoreTable,
    columns_with,
    read_rows,
    refuse_other_metric,
    refuse_overwriting,
    row_of,
    row_values,
    score_file,
)

ROW_GROUP = 1 << 16
PART = '00000-of-00001.jsonl'


class Parquet:
    """Rows as a Parquet file: image and error are strings, numbers are doubles, null without a score.

    Args:
        further: columns after the score.
    """

    def __init__(self, further: Sequence[str] = ()):
        self.further = tuple(further)

    def write(self, path: Path, rows: Iterator[ScoreRow], facts: Callable[[], Mapping[str, str]] | None = None) -> None:
        """Write a whole file in row groups, atomically.

        Args:
            path: the file.
            rows: taken one group at a time.
            facts: returns metadata of the file, once all rows have been taken.
        """
        with self.growing(path, facts) as add:
            for row in rows:
                add(row)

    @contextlib.contextmanager
    def growing(self, path: Path, facts: Callable[[], Mapping[str, str]] | None = None) -> Iterator[Callable[[ScoreRow], None]]:
        """Write a whole file in row groups, atomically, of the rows that the yielded function is called with.

        Args:
            path: the file; it is there when the block has ended without an error.
            facts: returns metadata of the file, at the end of the block.
        """
        import pyarrow as pa
        from pyarrow import parquet
        columns = columns_with(self.further)
        numbers = {'score', *self.further}
        schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in columns])
        group: list[dict[str, Any]] = []
        with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            def flush() -> None:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group.clear()

            def add(row: ScoreRow) -> None:
                group.append({**row_values(row, self.further, None), 'image': self.stored(row.score.image)})
                if len(group) == ROW_GROUP:
                    flush()
            yield add
            if group:
                flush()
            if facts is not None:
                writer.add_key_value_metadata(dict(facts()))

    def read(self, path: Path) -> Iterator[ScoreRow]:
        """Yield the rows.

        Raises:
            ValueError: the file has other columns, or is not a Parquet file.
        """
        from pyarrow import parquet
        with parquet.ParquetFile(path) as table:
            columns = columns_with(self.further)
            if table.schema_arrow.names != columns:
                raise ValueError(f'its columns are {table.schema_arrow.names}, not {columns}')
            for group in table.iter_batches(ROW_GROUP):
                yield from (row_of(values, self.further) for values in group.to_pylist())

    @staticmethod
    def stored(name: str) -> str:
        """Return a file name as it can be written in the file: what is not valid UTF-8 becomes `\\xNN`."""
        return os.fsencode(name).decode('utf-8', 'backslashreplace')


class WholeLines:
    """A line format, written and read as a whole file.

    Args:
        lines: the format.
        metric: name of the metric.
        further: columns after the score, as the format has them.
    """

    def __init__(self, lines: CsvLines | JsonLines, metric: str, further: Sequence[str] = ()):
        self.lines, self.metric, self.further = lines, metric, tuple(further)

    def write(self, path: Path, rows: Iterator[ScoreRow]) -> None:
        """Write a whole file, atomically."""
        score_file(path, self.lines).replace(rows)

    def read(self, path: Path) -> Iterator[ScoreRow]:
        """Yield the rows."""
        return read_rows(path, self.lines, self.metric)

    @staticmethod
    def stored(name: str) -> str:
        """Return a file name as it is written in the file."""
        return name


class ScoreParts:
    """The part of a table that grows, and the table itself when all images are done.

    Args:
        path: the table.
        metric: name of the metric, with its weights if they are the user's own; written in every row.
        resume: continue the table and the parts that exist.
        whole: how the table is written and read.
        retry: try the images without a score again.

    Attributes:
        finished: the images that are in the table or in any part already, and are not tried again.
        failed: how many of these have no score.

    Raises:
        OptionError: the table or its parts are there and `resume` is not set, or they hold another metric.
        DataError: the table is not a table of scores.
    """

    def __init__(self, path: str | os.PathLike, metric: str, resume: bool, whole: Parquet | WholeLines,
                 retry: bool = False):
        self.path, self.metric, self.whole = Path(path), metric, whole
        self.folder = parts_folder(path)
        refuse_overwriting(self.path, resume)
        if not resume:
            self._refuse_parts()
        best = BestRows(self._rows, self.whole.stored)
        self.finished = best.finished - best.failed if retry else best.finished
        self.failed = 0 if retry else len(best.failed)
        self._part = ScoreTable(self.folder / PART, metric, True, self._lines())

    def has(self, image: str) -> bool:
        """Whether an image is in the table or a part already."""
        return self.whole.stored(image) in self.finished

    def open(self) -> RowFile:
        """Return the part, a context manager that keeps it open for further lines."""
        return self._part.open()

    def write(self, file: RowFile, scores: list[ImageScore]) -> None:
        """Add lines to the part and hand them to the operating system."""
        self._part.write(file, scores)

    def finish(self) -> int:
        """Write the table: the rows that it had, then those of the parts in the order of the input; remove the parts.

        A process that is killed between these two steps leaves parts that the table already contains; each image is in it once.

        Returns:
            How many images have no score.
        """
        best = BestRows(self._rows, self.whole.stored)
        self.whole.write(self.path, iter(best))
        for part in self.folder.glob('*.jsonl'):
            part.unlink()
        self.folder.rmdir()
        return len(best.failed)

    def _rows(self) -> Iterator[ScoreRow]:
        parts = [read_rows(path, self._lines(), self.metric) for path in sorted(self.folder.glob('*.jsonl'))]
        return chain(self._own_rows(), heapq.merge(*parts, key=lambda row: row.score.position))

    def _lines(self) -> JsonLines:
        return JsonLines(positions=True, further=self.whole.further)

    def _own_rows(self) -> Iterator[ScoreRow]:
        if not self.path.exists():
            return
        try:
            for row in self.whole.read(self.path):
                refuse_other_metric(row, self.metric, self.path)
                yield row
        except (OptionError, DataError):
            raise
        except ValueError as error:  # pyarrow's own errors among them
            raise DataError(f'--out: {self.path} is not a table of scores: {error}. Give another name.') from error

    def _refuse_parts(self) -> None:
        """Raise OptionError for parts of an earlier run."""
        found = list(self.folder.glob('*.jsonl'))
        if found:
            raise OptionError(f'--out: {self.folder} holds the parts of a run that did not finish. Give --resume to continue '
                              'it, or remove that folder.')


def parts_folder(path: str | os.PathLike) -> Path:
    """Return the folder of a table's parts."""
    return Path(f'{os.fspath(path)}.parts')
