"""The folder of one analysis: what it was asked, rows as they are computed, tables and figures."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyiqa_rali.errors import OptionError
from pyiqa_rali.files import atomic_open, write_json
from pyiqa_rali.run_folder import versions
from pyiqa_rali.score_table import cut_after_last_line

OPTIONS, RESULTS, VERSIONS = 'options.json', 'results.json', 'versions.json'


class AnalysisFolder:
    """A folder that an interrupted analysis goes on with.

    Args:
        root: the folder.
        kind: of analysis.
        options: all that its rows depend on, as plain values.

    Raises:
        OptionError: the folder holds another analysis, or something else.
    """

    def __init__(self, root: str | os.PathLike, kind: str, options: Mapping[str, Any]):
        self.root = Path(root)
        wanted = json.loads(json.dumps({'kind': kind, **options}))
        written = self.root / OPTIONS
        if written.exists():
            before = json.loads(written.read_text(encoding='utf-8'))
            changed = next((key for key in {**before, **wanted} if before.get(key) != wanted.get(key)), None)
            if changed is not None:
                raise OptionError(f'--out: {self.root} was begun with another {changed}: {before.get(changed)!r}, now '
                                  f'{wanted.get(changed)!r}. Give another folder, or remove it.')
        elif self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise OptionError(f'--out: {self.root} is not empty and holds no analysis. Give a new folder.')
        write_json(written, wanted)
        write_json(self.root / VERSIONS, versions())

    def rows(self, name: str) -> 'RowFile':
        """Return the rows of a step that are there already; new ones are added to it."""
        return RowFile(self.root / f'{name}.jsonl')

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table as CSV; the first row gives the columns, and a value that does not exist is an empty cell."""
        with atomic_open(self.root / f'{name}.csv') as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator='\n')
            writer.writeheader()
            writer.writerows({key: '' if value != value else value for key, value in row.items()} for row in rows)

    def results(self, values: Mapping[str, Any]) -> None:
        """Write the figures; NaN, which JSON does not have, becomes null."""
        write_json(self.root / RESULTS, _without_nan(values))

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


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value
