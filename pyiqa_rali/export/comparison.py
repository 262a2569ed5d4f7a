"""What exported models lose in accuracy and gain in speed, on distorted photographs, with one thread each."""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.export.pictures import as_input
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.model.onnx.agreement import open_session
from pyiqa_rali.model.rali import RALI

REPEATS = 5
METRICS = measures_of('plcc', 'srcc')
Scorer = Callable[[np.ndarray], float]


def compare(net: RALI, models: Mapping[str, str | os.PathLike], pictures: Iterable[np.ndarray]) -> dict[str, Any]:
    """Score pictures with torch and with exported models, and time them.

    Args:
        net: the metric, on the CPU in float32.
        models: exported files by name, such as {'float': ..., 'int8': ...}.
        pictures: uint8 (H, W, 3); three at least.

    Returns:
        'pictures'; 'torch' with 'milliseconds'; for each model 'plcc', 'srcc' and 'largest_difference' against torch's
        scores, 'largest_difference_of_range' (a share), 'milliseconds' and 'speed' (torch's time over the model's), medians on
        the first picture.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scorers = {'torch': _torch_scorer(net), **{name: _onnx_scorer(path) for name, path in models.items()}}
        inputs = [as_input(picture) for picture in pictures]
        scores: dict[str, list[float]] = {name: [] for name in scorers}
        for images in progress_bar(inputs, desc='compare', unit='picture'):
            for name, score in scorers.items():
                scores[name].append(score(images))
        milliseconds = time_in_turn(scorers, inputs[0])
    finally:
        torch.set_num_threads(threads)
    low, high = net.metadata['mos_range']
    found: dict[str, Any] = {'pictures': len(inputs), 'timed_on': f'{inputs[0].shape[3]} x {inputs[0].shape[2]}',
                             'torch': {'milliseconds': milliseconds['torch']}}
    for name in models:
        found[name] = {**loss(np.array(scores[name]), np.array(scores['torch']), high - low),
                       'milliseconds': milliseconds[name], 'speed': milliseconds['torch'] / milliseconds[name]}
    return found


def loss(scores: np.ndarray, expected: np.ndarray, score_range: float) -> dict[str, float]:
    """Return how scores (n,) differ from the expected ones (n,)."""
    largest = float(np.abs(scores - expected).max())
    return {**correlations(scores, expected, METRICS, 'exported model'), 'largest_difference': largest,
            'largest_difference_of_range': largest / score_range}


def time_in_turn(scorers: dict[str, Scorer], images: np.ndarray, repeats: int = REPEATS) -> dict[str, float]:
    """Return each scorer's median time in milliseconds; they take turns, after one call each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(repeats + 1):
        for name, score in scorers.items():
            start = time.perf_counter()
            score(images)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values[1:]) for name, values in seconds.items()}


def _torch_scorer(net: RALI) -> Scorer:
    def score(images: np.ndarray) -> float:
        with torch.inference_mode():
            return net(torch.from_numpy(images)).item()
    return score


def _onnx_scorer(path: str | os.PathLike) -> Scorer:
    session = open_session(path, threads=1)
    return lambda images: session.run(None, {'images': images})[0].item()
