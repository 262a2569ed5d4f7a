"""Results of a study of what carries: seeds put together, changes with intervals, and the tables."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyiqa_rali.core.tables import markdown_table
from pyiqa_rali.measures.agreement import bootstrap_indices, percentile_interval, resampled

RESAMPLES, CONFIDENCE = 1000, 0.95
Scores = dict[tuple[str, str, str], dict[str, dict[int, np.ndarray]]]  # (images, 2) MOS label and score by place, arm and seed


@dataclass(frozen=True)
class Result:
    """SRCC of all seeds of one arm on one set.

    Attributes:
        encoder, arm, trained_on, tested_on: names of the options.
        in_domain: whether the set is among those trained on.
        images: that it was tested on.
        srcc: of the seeds, in their order.
        change: of the seeds, minus the first arm's of the same seed.
        interval: 95 % interval of the mean change over images: a paired percentile bootstrap, in which all arms and seeds are
            given the same images. None for the first arm.
    """

    encoder: str
    arm: str
    trained_on: str
    tested_on: str
    in_domain: bool
    images: int
    srcc: tuple[float, ...]
    change: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None


def summarised(rows: Sequence[dict[str, Any]], arms: Sequence[str]) -> list[Result]:
    """Put the seeds of the same arm, training and test together, and compare them with the first arm's.

    Args:
        rows: of results.csv.
        arms: in their order.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row['encoder'], row['trained_on'], row['tested_on'], row['arm']), []).append(row)
    results = []
    for (encoder, trained_on, tested_on, arm), members in groups.items():
        reference = {row['seed']: row['srcc'] for row in groups.get((encoder, trained_on, tested_on, arms[0]), ())}
        change = tuple(row['srcc'] - reference[row['seed']] for row in members if row['seed'] in reference)
        results.append(Result(encoder, arm, trained_on, tested_on, members[0]['in_domain'], members[0]['images'],
                              tuple(row['srcc'] for row in members), change))
    return results


def with_intervals(results: Sequence[Result], arms: Sequence[str], scores: Scores) -> list[Result]:
    """Return the results with the interval of each arm's mean change against the first arm.

    Args:
        results: of `summarised`.
        arms: in their order.
        scores: of the same arms, trainings and tested sets.
    """
    memory: dict[tuple[str, ...], dict[int, np.ndarray]] = {}

    def resamples(place: tuple[str, str, str], arm: str) -> dict[int, np.ndarray]:
        """Return SRCC of each resample by seed. That of the first arm is needed by all others."""
        if (*place, arm) not in memory:
            found = {}
            for seed, table in scores[place][arm].items():
                mos, score = table[:, 0], table[:, 1]
                indices = bootstrap_indices(len(mos), RESAMPLES, 0, place[2])
                found[seed] = resampled('srcc', score, mos, indices)
            memory[*place, arm] = found
        return memory[*place, arm]

    finished = []
    for result in results:
        place = (result.encoder, result.trained_on, result.tested_on)
        if result.arm != arms[0] and result.change:
            own, first = resamples(place, result.arm), resamples(place, arms[0])
            mean = np.mean([own[seed] - first[seed] for seed in own if seed in first], axis=0)
            result = replace(result, interval=percentile_interval(mean, CONFIDENCE))
        finished.append(result)
    return finished


def markdown(results: Sequence[Result], arms: Sequence[str], trainings: Sequence[str], seeds: int) -> str:
    """Return one table for each encoder: an arm and its training sets a row, a tested set a column.

    Args:
        results: of all arms.
        arms: in their order; the first is what the others are compared with.
        trainings: names of the choices of training sets, in their order.
        seeds: how many there are.
    """
    first = arms[0]
    parts = [f'SRCC, median [lowest, highest] of {seeds} seeds. *Italic*: tested in-domain, on the test part of a '
             f'set trained on. In brackets after it: the median change against "{first}" of the same seed, and the 95 % '
             f'interval of the mean change over images (paired bootstrap of {RESAMPLES}), **bold** where it excludes 0.']
    for encoder in dict.fromkeys(result.encoder for result in results):
        own = [result for result in results if result.encoder == encoder]
        tested = list(dict.fromkeys(result.tested_on for result in own))
        lines = []
        for trained_on, arm in itertools.product(trainings, arms):
            found = {result.tested_on: result for result in own if (result.trained_on, result.arm) == (trained_on, arm)}
            if found:
                lines.append([trained_on, arm, *(_cell(found[name], arm == first) for name in tested)])
        parts += [f'## {encoder}', markdown_table(['trained on', 'arm', *tested], lines)]
    return '\n\n'.join(parts) + '\n'


def _cell(result: Result, is_reference: bool) -> str:
    low, high = (_short(bound) for bound in (min(result.srcc), max(result.srcc)))
    text = f'{_short(float(np.median(result.srcc)))} [{low}, {high}]'
    text = f'*{text}*' if result.in_domain else text
    if is_reference or not result.change:
        return text
    change = _short(float(np.median(result.change)), '+')
    if result.interval is None:
        return f'{text} ({change})'
    least, most = result.interval
    told = f'{change} [{_short(least, "+")}, {_short(most, "+")}]'
    return f'{text} (**{told}**)' if least > 0 or most < 0 else f'{text} ({told})'


def _short(value: float, sign: str = '') -> str:
    return f'{value:{sign}.3f}'.replace('0.', '.', 1)
