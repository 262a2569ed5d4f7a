"""Pictures of a run as PNG: curves, scatter plots, and sheets of scored images."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyiqa_rali.core.files import atomic_path

BLUE, ORANGE, GRAY = '#0072B2', '#D55E00', '#777777'  # safe for colour-blind readers
COLUMNS = 4
TEXT_WIDTH = 52  # characters a line under a picture


def training_curves(records: dict[str, list[dict[str, float]]], out: Path) -> None:
    """Draw every column of every stage's record against its step.

    Args:
        records: rows with 'step' by stage; a row may lack some columns.
        out: the PNG.
    """
    panels = [(stage, column) for stage, rows in records.items()
              for column in dict.fromkeys(name for row in rows for name in row) if column != 'step']
    if not panels:
        return
    figure, axes = axes_grid(len(panels), 3.4, 2.5)
    for axis, (stage, column) in zip(axes, panels, strict=False):
        points = np.array([(row['step'], row[column]) for row in records[stage] if column in row])
        _curve(axis, points)
        axis.set_title(f'{stage}: {column}', fontsize=9)
        axis.set_xlabel('epoch' if stage == 'score' else 'step', fontsize=8)
    save_figure(figure, out)


def _curve(axis, points: np.ndarray) -> None:
    """Draw one curve, thin, and when it is long its running mean on top."""
    axis.plot(points[:, 0], points[:, 1], color=BLUE, linewidth=0.8, alpha=0.5 if len(points) > 40 else 1,
              marker='.' if len(points) < 15 else None)
    window = len(points) // 20
    if len(points) > 40:
        smooth = np.convolve(points[:, 1], np.ones(window) / window, mode='valid')
        axis.plot(points[window - 1:, 0], smooth, color=ORANGE, linewidth=1.6)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)


def score_scatter(scores: np.ndarray, mos: np.ndarray, out: Path, title: str, mos_range: tuple[float, float],
                  lower_better: bool, values: dict[str, float]) -> None:
    """Draw scores (n,) against MOS (n,), both in MOS units, with their correlations.

    Args:
        scores: (n,).
        mos: (n,).
        out: the PNG.
        title: name of the data set.
        mos_range: axis limits.
        lower_better: direction, for the labels.
        values: correlations to print.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axis = pyplot.subplots(figsize=(5, 5), layout='constrained')
    alpha = float(np.clip(60 / np.sqrt(len(scores)) / 10, 0.08, 0.8))
    axis.scatter(mos, scores, s=14, color=BLUE, alpha=alpha, linewidths=0)
    axis.plot(mos_range, mos_range, color=GRAY, linewidth=1, linestyle='--')
    better = 'lower is better' if lower_better else 'higher is better'
    axis.set(xlim=mos_range, ylim=mos_range, title=f'{title} (n = {len(scores)})', xlabel=f'MOS ({better})',
             ylabel=f'score ({better})')
    text = '\n'.join(f'{name.upper()} {value:.3f}' for name, value in values.items())
    axis.text(0.03, 0.97, text, transform=axis.transAxes, va='top', family='monospace',
              bbox={'facecolor': 'white', 'edgecolor': '#cccccc', 'alpha': 0.9})
    axis.grid(alpha=0.25)
    save_figure(figure, out)


def agreement_scatter(scores: np.ndarray, mos: np.ndarray, fitted: np.ndarray | None, out: Path, title: str,
                      lower_better: tuple[bool, bool], values: dict[str, tuple[float, float, float]]) -> None:
    """Draw MOS (n,) over scores (n,), each in its own unit, with the fitted curve and the measures.

    Args:
        scores: (n,).
        mos: (n,).
        fitted: (n,) MOS by the logistic fit; None without one.
        out: the PNG.
        title: metric and data set.
        lower_better: directions of the scores and of the MOS, for the labels.
        values: value and interval of each measure, to print.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axis = pyplot.subplots(figsize=(7.4, 5), layout='constrained')
    axis.scatter(scores, mos, s=14, color=BLUE, alpha=float(np.clip(6 / np.sqrt(len(scores)), 0.08, 0.8)), linewidths=0)
    if fitted is not None:
        order = np.argsort(scores)
        axis.plot(scores[order], fitted[order], color=ORANGE, linewidth=1.8, label='logistic fit')
        axis.legend(loc='best', fontsize=8, framealpha=0.9)
    better = ['lower is better' if lower else 'higher is better' for lower in lower_better]
    axis.set(title=f'{title} (n = {len(scores)})', xlabel=f'score ({better[0]})', ylabel=f'MOS ({better[1]})')
    lines = [f'{name}\n{value:.3f} [{low:.3f}, {high:.3f}]' if np.isfinite(value) else f'{name}\nnone'
             for name, (value, low, high) in values.items()]
    axis.text(1.02, 1, '\n\n'.join(lines), transform=axis.transAxes, va='top', fontsize=8.5)
    axis.grid(alpha=0.25)
    save_figure(figure, out)


def comparison_bars(rows: Sequence[dict], measure: str, title: str, out: Path) -> None:
    """Draw a measure of every metric on every data set, a panel a data set, with its interval.

    Args:
        rows: dataset, metric, and the measure with its ends `_low` and `_high`.
        measure: its column.
        title: how it is called.
        out: the PNG.
    """
    datasets, metrics = (list(dict.fromkeys(row[key] for row in rows)) for key in ('dataset', 'metric'))
    figure, axes = axes_grid(len(datasets), 4.2, 1.1 + 0.34 * len(metrics))
    for axis, dataset in zip(axes, datasets, strict=True):
        for position, row in enumerate(row for row in rows if row['dataset'] == dataset):
            if np.isfinite(row[measure]):
                ends = [[row[measure] - row[f'{measure}_low']], [row[f'{measure}_high'] - row[measure]]]
                axis.errorbar(row[measure], position, xerr=np.maximum(ends, 0), fmt='o', color=BLUE, capsize=3, markersize=5)
            else:
                axis.text(0.02, position, 'none', color=GRAY, fontsize=8, va='center')
        lowest = min((row[f'{measure}_low'] for row in rows if np.isfinite(row[f'{measure}_low'])), default=0)
        axis.set(xlim=(min(0, lowest * 1.1), 1), ylim=(len(metrics) - 0.5, -0.5), yticks=range(len(metrics)))
        axis.set_yticklabels(metrics, fontsize=8)
        axis.set_title(dataset, fontsize=9)
        axis.set_xlabel(title, fontsize=8)
        axis.tick_params(axis='x', labelsize=8)
        axis.locator_params(axis='x', nbins=5)
        axis.grid(axis='x', alpha=0.25)
    save_figure(figure, out)


def image_sheet(items: Sequence[tuple[np.ndarray, float, float]], out: Path, title: str) -> None:
    """Draw pictures from the lowest score to the highest, score and MOS under each.

    Args:
        items: (uint8 (H, W, 3), score, MOS) of each picture.
        out: the PNG.
        title: heading.
    """
    items = sorted(items, key=lambda item: item[1])
    figure, axes = axes_grid(len(items), 3, 2.5)
    for axis, (picture, score, mos) in zip(axes, items, strict=False):
        axis.imshow(picture)
        axis.set_title(f'score {score:.2f}   MOS {mos:.2f}', fontsize=9)
    for axis in axes:
        axis.axis('off')
    figure.suptitle(title)
    save_figure(figure, out)


def described_sheet(items: Sequence[tuple[np.ndarray, str, str]], out: Path, title: str) -> None:
    """Draw pictures with a heading over each and a text under it.

    Args:
        items: (uint8 (H, W, 3), heading, text) of each picture.
        out: the PNG.
        title: heading of the sheet.
    """
    figure, axes = axes_grid(len(items), 3.6, 4.4)
    figure.get_layout_engine().set(hspace=0.12)
    for axis, (picture, heading, text) in zip(axes, items, strict=True):
        axis.imshow(picture)
        axis.set_title(heading, fontsize=9)
        axis.set_xlabel(textwrap.fill(text, TEXT_WIDTH), fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(title)
    save_figure(figure, out)


def spread_over_scores(scores: np.ndarray, count: int) -> np.ndarray:
    """Return positions of `count` pictures whose scores are spread evenly from the lowest to the highest."""
    order = np.argsort(scores, kind='stable')
    targets = np.linspace(scores[order[0]], scores[order[-1]], count)
    chosen: list[int] = []
    for target in targets:
        left = [position for position in order if position not in chosen]
        chosen.append(int(min(left, key=lambda position: abs(scores[position] - target))))
    return np.array(chosen)


def axes_grid(count: int, width: float, height: float):
    """Return a figure and its axes (count,), at most COLUMNS beside each other.

    Args:
        count: how many.
        width: of each, in inches.
        height: of each, in inches.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), layout='constrained',
                                   squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes.flat[:count]


def save_figure(figure, out: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    from matplotlib import pyplot
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=110, format='png')
    pyplot.close(figure)
