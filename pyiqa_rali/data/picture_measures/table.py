"""A file of measures, one row a picture, which `measure` writes and texts can be written from."""

import os
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.runs import JsonRows, RowFile
from pyiqa_rali.data.picture_measures.measures import MEASURES

IMAGE = 'image'


def load_measures(path: str | os.PathLike) -> dict[str, dict[str, float]]:
    """Return the measures of each picture of a file that `measure` wrote, by the picture's name.

    Raises:
        OptionError: there is no such file.
        DataError: it is no such file, or of a version with other measures.
    """
    if not Path(path).is_file():
        raise OptionError(f'--measures: {path} is not a file. Give pictures.jsonl of pyiqa-rali measure.')
    return {row[IMAGE]: measures_of_row(row, path) for row in RowFile(path, JsonRows(), option='--measures').read()}


def measures_of_row(row: dict[str, Any], path: str | os.PathLike) -> dict[str, float]:
    """Return the measures of a row; None, which JSON has in the place of NaN, is NaN again.

    Raises:
        DataError: the row lacks a measure.
    """
    missing = [name for name in (IMAGE, *MEASURES) if name not in row]
    if missing:
        raise DataError(f'{path}: a row lacks {", ".join(missing)}; it was written by another version. Measure again.')
    return {name: float('nan') if row[name] is None else float(row[name]) for name in MEASURES}
