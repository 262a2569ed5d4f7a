"""The pictures of one training run: curves, scatter plots and sheets of scored images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyiqa_rali.figures.plots import image_sheet, score_scatter, spread_over_scores, training_curves
from pyiqa_rali.measures.correlations import correlations, measures_of

PICTURES_ON_A_SHEET = 20
METRICS = measures_of('plcc', 'srcc', 'krcc')

Scored = tuple[np.ndarray, np.ndarray, list[str]]
Picture = Callable[[int], np.ndarray]


def draw_run(folder: Path, records: dict[str, list[dict[str, float]]], scored: dict[str, Scored],
             pictures: dict[str, Picture], mos_range: tuple[float, float], lower_better: bool) -> None:
    """Write every picture of a run as PNG.

    Args:
        folder: where the pictures go.
        records: rows of each stage's record.
        scored: for each validation set, scores (n,), MOS (n,) and image names.
        pictures: for each validation set, position to uint8 (H, W, 3).
        mos_range: range of scores and MOS.
        lower_better: direction of both.
    """
    training_curves({name: rows for name, rows in records.items() if rows}, folder / 'training_curves.png')
    for name, (scores, mos, _) in scored.items():
        values = correlations(scores, mos, METRICS, name)
        score_scatter(scores, mos, folder / f'scatter_{name}.png', name, mos_range, lower_better, values)
        chosen = spread_over_scores(scores, min(PICTURES_ON_A_SHEET, len(scores)))
        items = [(pictures[name](int(index)), float(scores[index]), float(mos[index])) for index in chosen]
        image_sheet(items, folder / f'images_{name}.png', name)
