"""A file of measures, one row a picture, which `measure` writes and texts can be written from."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.files import sha256
from pyiqa_rali.core.runs import JsonRows, RowFile
from pyiqa_rali.data.picture_measures.measures import MEASURES

IMAGE, FILE = 'image', 'sha256'


@dataclass(frozen=True)
class MeasuredFile:
    """What was measured on a picture.

    Attributes:
        measures: by their names; NaN where there is nothing to measure.
        sha256: of the file.
    """

    measures: dict[str, float]
    sha256: str

    def measures_of(self, path: str | os.PathLike) -> dict[str, float]:
        """Return the measures of a file that must be the one that was measured.

        Raises:
            DataError: it is another.
        """
        if sha256(path) != self.sha256:
            raise DataError(f'{path}: the measures under this name are of another file. Measure again.')
        return self.measures


def load_measures(path: str | os.PathLike) -> dict[str, MeasuredFile]:
    """Return the measures of each picture of a file that `measure` wrote, by the picture's name.

    Raises:
        OptionError: there is no such file.
        DataError: it is no such file, or of a version with other measures.
    """
    if not Path(path).is_file():
        raise OptionError(f'--measures: {path} is not a file. Give pictures.jsonl of pyiqa-rali measure.')
    found = {}
    for row in RowFile(path, JsonRows(), option='--measures').read():
        measures = measures_of_row(row, path)
        found[row[IMAGE]] = MeasuredFile(measures, row[FILE])
    return found


def measures_of_row(row: dict[str, Any], path: str | os.PathLike) -> dict[str, float]:
    """Return the measures of a row; None, which JSON has in the place of NaN, is NaN again.

    Raises:
        DataError: the row lacks a measure or the digest of its file.
    """
    missing = [name for name in (IMAGE, FILE, *MEASURES) if name not in row]
    if missing:
        raise DataError(f'{path}: a row lacks {", ".join(missing)}; it was written by another version. Measure again.')
    return {name: float('nan') if row[name] is None else float(row[name]) for name in MEASURES}
