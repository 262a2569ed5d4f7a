"""The results of the chain: statistics of rewards, of both metrics and their times, and of the texts."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.records import read_record
from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.reasoning_texts import PRISTINE, load_reasoning_texts
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.training.vlm.rewards import named_classes
from pyiqa_rali.vlm.reading import BlindReader
from pyiqa_rali.vlm.scorer import ReasoningScorer
from pyiqa_rali.vlm.tables import Row, read_picture

FIRST_AND_LAST = 20  # steps whose mean rewards are compared
TIMED_IMAGES = 12
METRICS = measures_of('srcc', 'plcc')


def reward_statistics(log: Path, print_freq: int) -> dict[str, float]:
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


def time_statistics(reasoner: Any, rali: Any, paths: list[str]) -> dict[str, float]:
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


def score_statistics(scores: np.ndarray, rows: list[Row]) -> dict[str, float]:
    """Return the correlations of scores on the test pictures, over all and within each class of distortion.

    Args:
        scores: (n,); pictures with NaN, to which a model gave no rating, are left out and counted.
        rows: the n pictures.

    Returns:
        'srcc', 'plcc' (NaN when fewer than three pictures, or only pictures with the same MOS, have a score), 'srcc_CLASS' and
        'unrated'.
    """
    there = np.isfinite(scores)
    rated = [row for row, has_score in zip(rows, there, strict=True) if has_score]
    mos, unrated = np.array([row.mos for row in rated]), float((~there).sum())
    if len(rated) < 3 or np.ptp(mos) == 0:
        return {**dict.fromkeys(METRICS, float('nan')), 'unrated': unrated}
    return {**correlations(scores[there], mos, METRICS, 'test'),
            **statistics_by_class(scores[there], mos, _classes(rated), 'test'), 'unrated': unrated}


def model_statistics(net: ReasoningScorer, reader: BlindReader, rows: list[Row],
                     class_words: dict[str, list[str]]) -> dict[str, float]:
    """Return a model's ratings and how well its texts follow the test pictures, in each of its modes.

    Args:
        net: the model.
        reader: rates texts without their pictures.
        rows: the test pictures.
        class_words: words that name each class of distortion.

    Returns:
        For 'expectation' (whose texts are the greedy ones) and 'mean' (the texts are one sample each) what
        `score_statistics`, `reading_statistics` and `naming_statistics` say.
    """
    pictures, mos = [read_picture(row.image_path) for row in rows], np.array([row.mos for row in rows])
    found: dict[str, float] = {}
    for mode in ('expectation', 'mean'):
        net.mode = mode
        described = net.describe(pictures)
        texts = [each.reasoning_text for each in described]
        values = score_statistics(np.array([each.rating for each in described]), rows)
        values |= reading_statistics([[text] for text in texts], mos, reader, 'test')
        values |= naming_statistics(texts, _classes(rows), class_words)
        found |= {f'{mode}_{name}': value for name, value in values.items()}
    return found


def written_text_statistics(file: Path, rows: list[Row], reader: BlindReader) -> dict[str, float]:
    """Return how well the texts that RALI is aligned with follow their pictures, by the mean over each picture's texts."""
    texts = load_reasoning_texts(file)
    own = [[item.text for item in texts.get(Path(row.image_path).name, [])] for row in rows]
    return {f'written_{name}': value
            for name, value in reading_statistics(own, np.array([row.mos for row in rows]), reader, 'train').items()}


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


def reading_statistics(texts: Sequence[Sequence[str]], mos: np.ndarray, reader: BlindReader, name: str) -> dict[str, float]:
    """Return the correlations between MOS (n,) and the mean rating that a reader gives each picture's texts.

    Args:
        texts: one or more of each picture; pictures with only empty ones are left out and counted.
        mos: on any scale, higher better.
        reader: rates texts without their pictures.
        name: of the data set, for messages.

    Returns:
        'text_srcc', 'text_plcc' (NaN when all texts read the same, or fewer than three pictures have one) and
        'text_missing'.
    """
    flat = iter(reader.ratings([text or None for row in texts for text in row]))
    rows = [[rating for rating in (next(flat) for _ in row) if rating is not None] for row in texts]
    has_text = np.array([bool(row) for row in rows])
    found = dict.fromkeys(METRICS, float('nan'))
    if has_text.sum() > 2:
        found = correlations(np.array([np.mean(row) for row in rows if row]), mos[has_text], METRICS, name)
    return {**{f'text_{metric}': value for metric, value in found.items()}, 'text_missing': float((~has_text).sum())}


def naming_statistics(texts: Sequence[str], classes: Sequence[str],
                      class_words: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the share of texts that name their picture's class and no other, and the share of the most frequent class.

    Pictures whose class has no words are left out; without any other there are no statistics.
    """
    known = [(text, kind) for text, kind in zip(texts, classes, strict=True) if kind in class_words]
    if not known:
        return {}
    right = sum(named_classes(text, class_words) == {kind} for text, kind in known)
    most = max(Counter(kind for _, kind in known).values())
    return {'text_class_accuracy': right / len(known), 'text_class_majority': most / len(known)}


def statistics_by_class(scores: np.ndarray, mos: np.ndarray, classes: Sequence[str], name: str) -> dict[str, float]:
    """Return the SRCC within each class; none for '', and for classes with fewer than three pictures or a single MOS.

    Pristine pictures are all of the same quality: their labels differ only by rounding and have no meaningful order.
    """
    found, labels = {}, np.array(classes)
    for kind in sorted(set(classes) - {'', PRISTINE}):
        own = labels == kind
        if own.sum() > 2 and np.ptp(mos[own]) > 0:
            found[f'srcc_{kind}'] = correlations(scores[own], mos[own], METRICS, name)['srcc']
    return found
