"""The folder of one analysis: what it was asked, rows as they are computed, tables and figures."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiqa_rali.core.files import without_nan, write_json
from pyiqa_rali.core.runs import KeyedRows, claim_folder, read_claim, refuse_differences
from pyiqa_rali.core.tables import write_csv
from pyiqa_rali.core.versions import versions

OPTIONS, RESULTS, VERSIONS = 'options.json', 'results.json', 'versions.json'
WEIGHTS = 'weights_sha256'  # an entry of the options: the digest of every model, by its role


@dataclass
class AnalysisResult:
    """What an analysis found out, and where it is saved.

    Attributes:
        root: the folder.
        tables: rows of each table, by the name of its CSV file without '.csv'.
        results: what results.json holds; None where a value is undefined.
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
    """A folder that an interrupted analysis continues from.

    Args:
        root: the folder.
        kind: of analysis.
        options: everything that its rows depend on, as plain values; the models' weights follow later, by `check_weights`, so
            that options are checked before anything is loaded.

    Raises:
        OptionError: the folder contains another analysis, or something else.
    """

    def __init__(self, root: str | os.PathLike, kind: str, options: Mapping[str, Any]):
        self.root = Path(root)
        self._asked = {'kind': kind, **options}
        claim_folder(self.root / OPTIONS, self._asked, '--out', kind='analysis', free=(WEIGHTS,))
        write_json(self.root / VERSIONS, versions())

    def check_weights(self, found: Mapping[str, str]) -> None:
        """Record which weights the models have, because what a path contains can change.

        Args:
            found: digest of each model, by its role, such as 'model'.

        Raises:
            OptionError: the folder was begun with other weights.
        """
        record = self.root / OPTIONS
        before = (read_claim(record) or {}).get(WEIGHTS)
        if before is not None:
            first, second = ({f'{WEIGHTS} of {name}': digest for name, digest in each.items()} for each in (before, found))
            refuse_differences(f'--out: {self.root}', first, second)
        write_json(record, {**self._asked, WEIGHTS: dict(found)})

    def rows(self, name: str) -> KeyedRows:
        """Return the existing rows of a step; new ones are added to it."""
        return KeyedRows(self.root / f'{name}.jsonl')

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table as CSV; the rows determine the columns, and an undefined value is an empty cell."""
        write_csv(self.root / f'{name}.csv', list(dict.fromkeys(column for row in rows for column in row)), rows)

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
