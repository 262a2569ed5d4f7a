"""The folder of one analysis: what it was asked, rows as they are computed, tables and figures."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import atomic_open, without_nan, write_json
from pyiqa_rali.core.runs import versions
from pyiqa_rali.scoring.score_table import cut_after_last_line

OPTIONS, RESULTS, VERSIONS = 'options.json', 'results.json', 'versions.json'
WEIGHTS = 'weights_sha256'  # among the options: of every model, by what it is


@dataclass
class AnalysisResult:
    """What an analysis found out, and where it stands.

    Attributes:
        root: the folder.
        tables: rows of each table, by the name of its CSV file without '.csv'.
        results: what results.json holds; None where a value does not exist.
        figure: the drawing, a PNG file.
    """

    root: Path
    tables: dict[str, list[dict[str, Any]]]
    results: dict[str, Any]
    figure: Path

    @property
    def files(self) -> list[str]:
        """Names of all files that were written, within the folder."""
        return [*(f'{name}.csv' for name in self.tables), RESULTS, self.figure.name]


class AnalysisFolder:
    """A folder that an interrupted analysis goes on with.

    Args:
        root: the folder.
        kind: of analysis.
        options: all that its rows depend on, as plain values; which weights the models have comes later, by
            `check_weights`, so that options are checked before anything is loaded.

    Raises:
        OptionError: the folder holds another analysis, or something else.
    """

    def __init__(self, root: str | os.PathLike, kind: str, options: Mapping[str, Any]):
        self.root = Path(root)
        self._asked = json.loads(json.dumps({'kind': kind, **options}))
        written = self.root / OPTIONS
        self._weights = None
        if written.exists():
            before = json.loads(written.read_text(encoding='utf-8'))
            self._weights = before.pop(WEIGHTS, None)
            self._refuse_changes(before, self._asked)
        elif self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise OptionError(f'--out: {self.root} is not empty and holds no analysis. Give a new folder.')
        self._write_options()
        write_json(self.root / VERSIONS, versions())

    def check_weights(self, found: Mapping[str, str]) -> None:
        """Write down which weights the models have; a path says nothing of what stands there by now.

        Args:
            found: digest of each model, by what it is, such as 'model'.

        Raises:
            OptionError: the folder was begun with other weights.
        """
        if self._weights is not None:
            self._refuse_changes({f'{WEIGHTS} of {name}': value for name, value in self._weights.items()},
                                 {f'{WEIGHTS} of {name}': value for name, value in found.items()})
        self._weights = dict(found)
        self._write_options()

    def _refuse_changes(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        changed = next((key for key in {**before, **now} if before.get(key) != now.get(key)), None)
        if changed is not None:
            raise OptionError(f'--out: {self.root} was begun with another {changed}: {before.get(changed)!r}, now '
                              f'{now.get(changed)!r}. Give another folder, or remove it.')

    def _write_options(self) -> None:
        write_json(self.root / OPTIONS, self._asked if self._weights is None else {**self._asked, WEIGHTS: self._weights})

    def rows(self, name: str) -> 'RowFile':
        """Return the rows of a step that are there already; new ones are added to it."""
        return RowFile(self.root / f'{name}.jsonl')

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table as CSV; the first row gives the columns, and a value that does not exist is an empty cell."""
        with atomic_open(self.root / f'{name}.csv') as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator='\n')
            writer.writeheader()
            writer.writerows({key: '' if value != value else value for key, value in row.items()} for row in rows)

    def results(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write the results, and return them as written: NaN, which JSON does not have, becomes null."""
        found = without_nan(values)
        write_json(self.root / RESULTS, found)
        return found

    def finish(self, tables: Mapping[str, Sequence[Mapping[str, Any]]], values: Mapping[str, Any],
               figure: Path) -> AnalysisResult:
        """Write all tables and the results of an analysis, and return them.

        Args:
            tables: rows by the name of the table.
            values: for results.json.
            figure: the drawing.
        """
        for name, rows in tables.items():
            self.table(name, rows)
        return AnalysisResult(self.root, {name: [dict(row) for row in rows] for name, rows in tables.items()},
                              self.results(values), figure)

    def picture(self, name: str) -> Path:
        """Return the path of a picture."""
        return self.root / f'{name}.png'


class RowFile:
    """JSON lines with a key each, that grow by whole lines.

    Args:
        path: the file; what a killed run left of a line is dropped.
    """

    def __init__(self, path: Path):
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            cut_after_last_line(path)
            with open(path, encoding='utf-8') as stream:
                self.done = {row['key']: row for row in map(json.loads, stream)}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows and hand them to the disk."""
        with open(self.path, 'a', encoding='utf-8') as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
            stream.flush()
            os.fsync(stream.fileno())
        self.done.update({row['key']: row for row in rows})
