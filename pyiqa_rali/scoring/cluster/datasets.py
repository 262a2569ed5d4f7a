"""Scores for a Ray Dataset that a program has already: a column of pictures in, columns with scores out."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.image_files import READING, ReadingOptions

if TYPE_CHECKING:
    from ray.data import Dataset

    from pyiqa_rali.scoring.decoded import Pixels
    from pyiqa_rali.scoring.score_table import ImageScore

NAMES = ('path', 'image_name', 'name', '__key__')  # keys of a picture that is a mapping, which name it
ROWS = 64  # that reach a process at once


def score_dataset(ds: 'Dataset', column: str = 'image', metric: str | None = None,
                  weights: str | os.PathLike | None = None, *, device: str | None = None, actors: int | None = None,
                  gpus_per_actor: float = 0.0, batch_size: int | None = None, rows: int = ROWS,
                  reading: ReadingOptions | None = None, **options: Any) -> 'Dataset':
    """Score the pictures of a Ray Dataset, as `pyiqa-rali score --engine ray` scores files.

    Nothing runs before the returned data set is used, and then as a stream: `score_dataset(ds).write_parquet('scores')`. Rows
    keep their columns and their order.

    Args:
        ds: rows with a picture each.
        column: of the pictures: paths, the bytes of files, arrays uint8 (H, W, 3), or mappings with 'bytes' or 'path'.
        metric: name of a no-reference metric of pyiqa; None takes 'rali-lite', with weights 'rali'.
        weights: file or folder of an export.
        device: such as 'cuda'; None takes the CPU, or with `gpus_per_actor` a GPU.
        actors: processes that score; None takes as many as fit into the cluster.
        gpus_per_actor: GPUs of each; a fraction lets several share one.
        batch_size: images in one pass; None chooses what suits the device.
        rows: that reach a process at once.
        reading: how pictures are read; None turns them upright.
        options: of the metric's architecture, such as precision='bf16'.

    Returns:
        The data set with the columns 'score' (float64, null without a score), 'error' (why there is none, else empty) and
        'metric'.

    Raises:
        OptionError: a number or `metric` cannot be used. What only the cluster can find out, such as weights that are missing
            there, is raised when the data set is used.
    """
    from ray.data import ActorPoolStrategy

    from pyiqa_rali.core.ray_cluster import number_of_actors
    if rows < 1:
        raise OptionError(f'rows: {rows} must be at least 1.')
    if actors is not None and actors < 1:
        raise OptionError(f'actors: {actors} must be at least 1.')
    count = number_of_actors(actors, gpus_per_actor)
    made = (column, metric or ('rali' if weights else 'rali-lite'), None if weights is None else os.fspath(weights),
            device or (None if gpus_per_actor else 'cpu'), batch_size, reading or READING, options)
    return ds.map_batches(RowScorer, fn_constructor_args=made, batch_size=rows, batch_format='numpy',
                          compute=ActorPoolStrategy(min_size=1, max_size=count, initial_size=count), num_cpus=1,
                          num_gpus=gpus_per_actor or None)


class RowScorer:
    """Scores rows in one process of the cluster; the arguments are those of `score_dataset`."""

    def __init__(self, column: str, metric: str, weights: str | None, device: str | None, batch_size: int | None,
                 reading: ReadingOptions, options: dict[str, Any]):
        from pyiqa_rali.scoring.engine import suitable_sizes
        from pyiqa_rali.scoring.metrics import make_metric, metric_label
        from pyiqa_rali.scoring.passes import Scorer
        self.column, self.reading = column, reading
        made = make_metric(metric, weights, device, options)
        self.batch_size, self.workers = suitable_sizes(made, batch_size)
        self.scorer, self.label = Scorer(made, self.batch_size), metric_label(metric, weights, options, made)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the rows of a batch with their scores.

        Raises:
            DataError: the column of pictures is not there, or one of those to be added is.
        """
        from pyiqa_rali.scoring.engine import score_windows, window_of
        from pyiqa_rali.scoring.entries import chunks
        if self.column not in rows:
            raise DataError(f'column: "{self.column}" is not in the data set, which has {", ".join(rows)}.')
        there = [name for name in ('score', 'error', 'metric') if name in rows]
        if there:
            raise DataError(f'ds: already has the column {there[0]}. Drop or rename it before its pictures are scored.')
        values = rows[self.column]
        windows = chunks(range(len(values)), window_of(self.scorer.metric, self.batch_size))
        scored = score_windows(ValueReader(values, self.reading), windows, self.scorer, 0)
        found = [score for window in scored for score in window]
        import pyarrow as pa
        scores = pa.array([score.score for score in found], pa.float64())
        return {**rows, 'score': scores, 'error': np.array([score.error for score in found], object),
                'metric': np.array([self.label] * len(found), object)}


class ValueReader:
    """Map-style data set from the number of a row to its picture.

    Args:
        values: paths, bytes, arrays, or mappings with 'bytes' or 'path'.
        reading: how pictures are read.
    """

    def __init__(self, values: Sequence[Any] | np.ndarray, reading: ReadingOptions = READING):
        self.values, self.reading = values, reading

    def __getitem__(self, index: int) -> 'tuple[ImageScore, Pixels]':
        """Read one picture."""
        from pyiqa_rali.scoring.engine import EntryReader
        from pyiqa_rali.scoring.entries import ImageEntry, as_entry
        from pyiqa_rali.scoring.score_table import UNREADABLE, ImageScore
        value, name = self.values[index], f'row {index}'
        if isinstance(value, dict):
            name = next((str(value[key]) for key in NAMES if value.get(key)), name)
            value = value.get('bytes') or value.get('path')
        if isinstance(value, str | os.PathLike):
            return EntryReader(self.reading)[as_entry(value)]
        if isinstance(value, bytes):
            return EntryReader(self.reading)[ImageEntry(name, name, size=len(value), content=value)]
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3:
            return ImageScore(name), (value,)
        return ImageScore(name, None, f'a picture is a path, bytes, or an array uint8 (H, W, 3), not {_kind_of(value)}',
                          reason=UNREADABLE), ()


def _kind_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f'an array {value.dtype} {value.shape}'
    return 'null' if value is None else type(value).__name__
