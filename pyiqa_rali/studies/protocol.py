"""The light model's test: several seeds and splits by photograph, types of distortion never trained on, and baselines."""

import copy
import csv
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.measures.correlations import correlations, measures_of

HELD_OUT = ('motion_blur', 'color_shift', 'vignette', 'haze', 'multiplicative_noise', 'webp', 'aliasing', 'ringing')
LEVELS = (1.0, 2.0, 3.0, 4.0, 5.0)
METRICS = measures_of('plcc', 'srcc')
SETS = ('test_in_domain', 'test_out_of_domain')


def protocol_options(values: dict[str, Any], seed: int, photos: str | None, num_photographs: int | None) -> dict[str, Any]:
    """Return a run's options for one seed and split: held-out types leave training, test photographs are scored.

    The validation photographs choose the epoch of stage 3, also without the held-out types; the test photographs choose
    nothing.

    Args:
        values: the light run's options as read from YAML.
        seed: the run's seed and the split's.
        photos: folder of photographs; None takes the installed ones.
        num_photographs: so many test photographs; None takes all.
    """
    values = copy.deepcopy(values)
    values.update(name=f'{values["name"]}_protocol_{seed}', manual_seed=seed)
    for section in ('train', 'basis', 'val'):
        values['datasets'][section].update(dataroot_photos=photos, split_seed=seed, hold_out=list(HELD_OUT))
        values['datasets'][section]['seed'] = values['datasets'][section].get('seed', 0) + 10_000_000 * seed
    grid = {key: value for key, value in values['datasets']['val'].items()
            if key not in ('hold_out', 'only', 'samples_per_epoch', 'pristine_probability', 'composite_probability')}
    grid.update(phase='test', dataroot_photos=photos, split_seed=seed, levels=list(LEVELS), num_photographs=num_photographs)
    for name, types in zip(SETS, ({'hold_out': list(HELD_OUT)}, {'only': list(HELD_OUT)}), strict=True):
        values['datasets'][name] = {**grid, 'name': name, **types}
    values['val'].update(val_freq=None, key_dataset='val')
    return values


def read_scores(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return names, MOS (n,) and scores (n,) of a run's score table."""
    with open(path, encoding='utf-8', newline='') as stream:
        rows = list(csv.DictReader(stream))
    return ([row['image'] for row in rows], np.array([float(row['mos']) for row in rows]),
            np.array([float(row['score']) for row in rows]))


def level_order(names: list[str], scores: np.ndarray) -> float:
    """Return the share of pairs of levels, of one photograph and type, that the scores put in the right order.

    Args:
        names: 'photograph|type|level#index' of each picture.
        scores: (n,), higher better; ties count as wrong.
    """
    groups = defaultdict(list)
    for name, score in zip(names, scores, strict=True):
        photograph, kind, level = name.split('#')[0].split('|')
        groups[photograph, kind].append((float(level), score))
    right = [first[1] > second[1] if first[0] < second[0] else first[1] < second[1]
             for group in groups.values() for first, second in combinations(group, 2) if first[0] != second[0]]
    return float(np.mean(right))


def measure(mos: np.ndarray, scores: np.ndarray, name: str) -> dict[str, float]:
    """Return PLCC and SRCC, rounded to four digits."""
    return {metric: round(value, 4) for metric, value in correlations(scores, mos, METRICS, name).items()}


def medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median over seeds of every number in nested results."""
    first = results[0]
    return {key: medians([result[key] for result in results]) if isinstance(first[key], dict)
            else round(float(np.median([result[key] for result in results])), 4)
            for key in first if isinstance(first[key], (dict, int, float))}
