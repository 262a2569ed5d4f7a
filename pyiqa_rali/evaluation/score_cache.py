"""Scores that are computed once: kept on disk for all runs, by metric, options, weights and image file."""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.runs import CsvRows, RowFile

logger = logging.getLogger(__name__)

COLUMNS = ['key', 'score', 'image']
DESCRIPTION = 'metric.json'


class ScoreCache:
    """The scores of one metric with its options, weights and versions.

    Its folder holds `metric.json`, which says whose scores they are, and one CSV for each process that added some, so that
    processes that run at the same time do not meet. A line that was cut short by a kill is ignored.

    Args:
        folder: the cache of all metrics.
        description: all that the scores depend on, beside the image.
    """

    def __init__(self, folder: str | os.PathLike, description: dict[str, Any]):
        name = re.sub(r'[^\w.+-]', '_', str(description['name']))
        self.folder = Path(folder) / f'{name}_{digest(description)[:16]}'
        write_json(self.folder / DESCRIPTION, description)
        self._scores = {key: score for path in sorted(self.folder.glob('*.csv')) for key, score in _kept_scores(path)}
        self._rows: RowFile | None = None

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, key: str | None) -> float | None:
        """Return the score of an image, or None."""
        return None if key is None else self._scores.get(key)

    def add(self, key: str, score: float, image: str) -> None:
        """Keep a finite score, on disk at once."""
        if self._rows is None:
            self._rows = RowFile(self.folder / f'{os.getpid()}_{time.time_ns()}.csv', CsvRows(COLUMNS))
        self._rows.add([{'key': key, 'score': float(score), 'image': image}])
        self._scores[key] = float(score)


def _kept_scores(path: Path) -> Iterator[tuple[str, float]]:
    """Yield the scores of a file; what is damaged, and everything after it, is computed again."""
    lines = CsvRows(COLUMNS, lambda row: (row['key'], float(row['score'])))
    try:
        yield from RowFile(path, lines, kind='a file of scores').read()
    except DataError as error:
        logger.warning('scores are computed again: %s', error)


def digest(value: Any) -> str:
    """Return the SHA-256 digest of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode('utf-8', 'surrogatepass')).hexdigest()


def image_key(paths: list[str], pixels: Any) -> str | None:
    """Return what a score of image files is kept by: their path, size and time, and what is done to their pixels.

    Args:
        paths: the image, and its reference if the metric sees one.
        pixels: options that change the pixels on their way to the metric.

    Returns:
        The key, or None when a file is not there.
    """
    try:
        files = [(os.path.abspath(path), *_size_and_time(path)) for path in paths]
    except OSError:
        return None
    return digest([files, pixels])[:32]


def _size_and_time(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
