"""What the chain found out: figures of rewards, of both metrics and their times, and of the texts."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.records import read_record
from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.reasoning_texts import load_reasoning_texts
from pyiqa_rali.measures.correlations import correlations
from pyiqa_rali.studies.chain.text_statistics import METRICS, figures_by_class, naming_figures, reading_figures
from pyiqa_rali.vlm.reading import BlindReader
from pyiqa_rali.vlm.scorer import ReasoningScorer
from pyiqa_rali.vlm.tables import Row, read_picture

FIRST_AND_LAST = 20  # steps whose mean rewards are compared
TIMED_IMAGES = 12


def reward_figures(log: Path, print_freq: int) -> dict[str, float]:
    """Return the mean reward of the first and last steps.

    Args:
        log: the CSV of GRPO.
        print_freq: steps between its rows.

    Raises:
        OptionError: it has no rows.
    """
    record = read_record(log)
    if not record:
        raise OptionError(f'logger: print_freq: {print_freq} is more than the steps of GRPO: no reward was recorded. '
                          'Lower it.')
    steps = max(1, FIRST_AND_LAST // max(1, print_freq))
    first, last = (statistics.fmean(row['reward'] for row in rows) for rows in (record[:steps], record[-steps:]))
    return {'reward_first_20': first, 'reward_last_20': last, 'reward_gain': last - first}


def time_figures(reasoner: Any, rali: Any, paths: list[str]) -> dict[str, float]:
    """Return the median time for one image, called one at a time: RALI's, and the model's in two modes; and ratios."""
    reasoner.net.batch_size = 1
    medians = []
    for metric, mode in ((rali, None), (reasoner, 'expectation'), (reasoner, 'mean')):
        reasoner.net.mode = mode or reasoner.net.mode
        metric(paths[0])
        medians.append(statistics.median(timed(partial(metric, path)) for path in paths[:TIMED_IMAGES]))
    return {'rali_ms': 1000 * medians[0], 'reasoning_expectation_ms': 1000 * medians[1],
            'reasoning_mean_ms': 1000 * medians[2], 'time_ratio_expectation': medians[0] / medians[1],
            'time_ratio_mean': medians[0] / medians[2]}


def score_figures(scores: np.ndarray, rows: list[Row]) -> dict[str, float]:
    """Return the correlations of scores on the test pictures, over all and within each class of distortion.

    Args:
        scores: (n,); pictures with NaN, which a model gave no rating, are left out, and counted.
        rows: the n pictures.

    Returns:
        'srcc', 'plcc' (NaN when fewer than three pictures, or pictures of one MOS alone, have a score), 'srcc_CLASS' and
        'unrated'.
    """
    there = np.isfinite(scores)
    rated = [row for row, has_score in zip(rows, there, strict=True) if has_score]
    mos, unrated = np.array([row.mos for row in rated]), float((~there).sum())
    if len(rated) < 3 or np.ptp(mos) == 0:
        return {**dict.fromkeys(METRICS, float('nan')), 'unrated': unrated}
    return {**correlations(scores[there], mos, METRICS, 'test'),
            **figures_by_class(scores[there], mos, _classes(rated), 'test'), 'unrated': unrated}


def model_figures(net: ReasoningScorer, reader: BlindReader, rows: list[Row],
                  class_words: dict[str, list[str]]) -> dict[str, float]:
    """Return a model's ratings and how well its texts follow the test pictures, in each of its modes.

    Args:
        net: the model.
        reader: rates texts without their pictures.
        rows: the test pictures.
        class_words: words that name each class of distortion.

    Returns:
        For 'expectation' (whose texts are the greedy ones) and 'mean' (the texts are one sample each) what
        `score_figures`, `reading_figures` and `naming_figures` say.
    """
    pictures, mos = [read_picture(row.image_path) for row in rows], np.array([row.mos for row in rows])
    found: dict[str, float] = {}
    for mode in ('expectation', 'mean'):
        net.mode = mode
        described = net.describe(pictures)
        texts = [each.reasoning_text for each in described]
        values = score_figures(np.array([each.rating for each in described]), rows)
        values |= reading_figures([[text] for text in texts], mos, reader, 'test')
        values |= naming_figures(texts, _classes(rows), class_words)
        found |= {f'{mode}_{name}': value for name, value in values.items()}
    return found


def written_text_figures(file: Path, rows: list[Row], reader: BlindReader) -> dict[str, float]:
    """Return how well the texts that RALI is aligned with follow their pictures, by the mean over each picture's texts."""
    texts = load_reasoning_texts(file)
    own = [[item.text for item in texts.get(Path(row.image_path).name, [])] for row in rows]
    return {f'written_{name}': value
            for name, value in reading_figures(own, np.array([row.mos for row in rows]), reader, 'train').items()}


def words_of(types: Sequence[str]) -> dict[str, list[str]]:
    """Return the phrase by which texts name each type of distortion."""
    return {name: [DISTORTIONS[name].phrase.removeprefix('a ')] for name in types}


def timed(work: Callable[[], Any]) -> float:
    """Run something and return the seconds it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _classes(rows: list[Row]) -> list[str]:
    return [row.distortion_class for row in rows]
