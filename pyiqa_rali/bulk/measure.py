"""How fast files are read, scored, and both together: whether decoding starves the model."""

import time
from collections.abc import Iterator
from typing import Any

from pyiqa_rali.bulk.entries import as_entry, chunks, read_entry
from pyiqa_rali.bulk.pipeline import Decoded, finished_scores, score_files, start_scoring
from pyiqa_rali.errors import DataError


def pipeline_rates(paths: list[str], metric: Any, batch_size: int, workers: int) -> dict[str, float]:
    """Return images a second of the pipeline and of its two halves.

    Args:
        paths: image files.
        metric: a no-reference metric of pyiqa.
        batch_size: images scored in one pass.
        workers: processes, as in `score_files`.

    Returns:
        'decode': reading and decoding alone, in this process, one thread; 'model': preprocessing and scoring alone, of pictures
        in memory, in this process with its threads; 'pipeline': `score_files` from the first file to the last score, start of
        the workers included; 'utilisation': the pipeline's rate over the model's, above 1 when several workers score.

    Raises:
        DataError: an image has no score.
    """
    warm_up = paths[:batch_size]
    _refuse_failures(score_files(warm_up, metric, batch_size, 0))
    start = time.perf_counter()
    for path in paths:
        read_entry(as_entry(path))
    decode = time.perf_counter() - start
    model = sum(_model_seconds(chunk, metric, batch_size) for chunk in chunks(paths, batch_size))
    start = time.perf_counter()
    _refuse_failures(score_files(paths, metric, batch_size, workers))
    pipeline = time.perf_counter() - start
    count = len(paths)
    return {'decode': count / decode, 'model': count / model, 'pipeline': count / pipeline, 'utilisation': model / pipeline}


def _model_seconds(paths: list[str], metric: Any, batch_size: int) -> float:
    entries = [as_entry(path) for path in paths]
    decoded = Decoded.of([(entry, read_entry(entry)) for entry in entries])
    start = time.perf_counter()
    finished_scores(decoded, start_scoring(metric, decoded, batch_size))
    return time.perf_counter() - start


def _refuse_failures(windows: Iterator[list[Any]]) -> None:
    for window in windows:
        for score in window:
            if score.error:
                raise DataError(f'{score.image}: {score.error}')
