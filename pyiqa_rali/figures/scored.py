"""Figures of pictures with scores: training curves, scatter plots, sheets of pictures, and metrics beside each other."""

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyiqa_rali.figures.style import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PINK,
    SERIES,
    better,
    curve,
    empty_figure,
    panels,
    save_png,
    scatter,
    styled,
    without_ticks,
)
from pyiqa_rali.measures.correlations import correlations, measures_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES_ON_A_SHEET = 20
METRICS = measures_of('plcc', 'srcc', 'krcc')
TEXT_WIDTH = 52  # characters per line under a picture

Record = Sequence[Mapping[str, float]]
Scored = tuple[np.ndarray, np.ndarray, list[str]]  # scores (n,), MOS (n,) and n names
Picture = Callable[[int], np.ndarray]
Case = tuple[int, str]  # position of a picture, and the anchor that a point leads to


def draw_run(folder: Path, records: Mapping[str, Record], scored: Mapping[str, Scored], pictures: Mapping[str, Picture],
             mos_range: tuple[float, float], lower_better: bool) -> None:
    """Write every figure of a training run as PNG: curves, and for each validation set a scatter plot and a sheet.

    Args:
        folder: where they go.
        records: rows of each stage's record.
        scored: of each validation set.
        pictures: for each validation set, position to uint8 (H, W, 3).
        mos_range: range of scores and MOS.
        lower_better: direction of both.
    """
    drawn = curves(records)
    if drawn is not None:
        save_png(drawn, folder / 'training_curves.png')
    for name, (scores, mos, _) in scored.items():
        values = correlations(scores, mos, METRICS, name)
        save_png(score_scatter(scores, mos, mos_range, name, lower_better, values), folder / f'scatter_{name}.png')
        chosen = spread_over_scores(scores, min(PICTURES_ON_A_SHEET, len(scores)))
        items = [(pictures[name](int(index)), f'score {scores[index]:.2f}   MOS {mos[index]:.2f}', '') for index in chosen]
        save_png(picture_sheet(items, f'{name}: from the lowest score to the highest'), folder / f'images_{name}.png')


@styled
def curves(records: Mapping[str, Record]) -> 'Figure | None':
    """Draw every column of every record against its step; None when there is nothing to draw.

    Args:
        records: rows with 'step', by name of the record; a row may lack some columns, and hold NaN.
    """
    named = [(name, column) for name, rows in records.items() for column in dict.fromkeys(key for row in rows for key in row)
             if column != 'step']
    drawn = [(name, column, points) for name, column in named if len(points := _points(records[name], column))]
    if not drawn:
        return None
    figure, axes = panels(len(drawn), 3.1, 2.3, columns=3)
    for axis, (name, column, points) in zip(axes, drawn, strict=True):
        curve(axis, points)
        axis.set(title=f'{name}: {column}', xlabel='epoch' if name == 'score' else 'step')
    return figure


def _points(rows: Record, column: str) -> np.ndarray:
    return np.array([(row['step'], row[column]) for row in rows if np.isfinite(row.get(column, np.nan))])


@styled
def score_scatter(scores: np.ndarray, mos: np.ndarray, span: Sequence[float] | None, title: str = '',
                  lower_better: bool | None = None, values: Mapping[str, float] | None = None,
                  chosen: Mapping[str, Sequence[Case]] | None = None) -> 'Figure':
    """Draw n scores against n MOS.

    Args:
        scores: (n,).
        mos: (n,).
        span: range of both, on whose diagonal a perfect metric's points lie; None when they have no common scale.
        title: such as the name of the data set; the number of pictures is added.
        lower_better: direction of both, for the labels; None leaves it out.
        values: correlations to print.
        chosen: points to mark, by kind of case; in a page they lead to the pictures behind them.
    """
    figure = empty_figure(5.6, 5.0)
    axis = figure.subplots()
    scatter(axis, mos, scores, span)
    for (kind, cases), colour, marker in zip((chosen or {}).items(), (GREEN, PINK, ORANGE), 'osD', strict=False):
        if cases:
            positions = [position for position, _ in cases]
            marked = axis.scatter(mos[positions], scores[positions], s=46, color=colour, marker=marker, edgecolors=PAPER,
                                  linewidths=0.8, label=kind, zorder=3)
            marked.set_urls([f'#{anchor}' for _, anchor in cases])
    if any((chosen or {}).values()):
        axis.legend(loc='best')
    if values:
        text = '\n'.join(f'{name.upper()} {value:.3f}' for name, value in values.items())
        axis.text(0.03, 0.97, text, transform=axis.transAxes, va='top', family='monospace',
                  bbox={'facecolor': PAPER, 'edgecolor': GRAY, 'alpha': 0.9})
    direction = '' if lower_better is None else f' ({better(lower_better)})'
    axis.set(xlabel=f'MOS{direction}', ylabel=f'score{direction}', title=f'{title} (n = {len(scores)})' if title else '')
    return figure


@styled
def agreement_scatter(scores: np.ndarray, mos: np.ndarray, fitted: np.ndarray | None, title: str,
                      lower_better: tuple[bool, bool], values: Mapping[str, tuple[float, float, float]]) -> 'Figure':
    """Draw MOS (n,) over scores (n,), each in its own unit, with the fitted curve and the measures.

    Args:
        scores: (n,).
        mos: (n,).
        fitted: (n,) MOS by the logistic fit; None without one.
        title: metric and data set.
        lower_better: directions of the scores and of the MOS, for the labels.
        values: value and ends of the interval of each measure, to print.
    """
    figure = empty_figure(7.4, 5)
    axis = figure.subplots()
    scatter(axis, scores, mos)
    if fitted is not None:
        order = np.argsort(scores)
        axis.plot(scores[order], fitted[order], color=ORANGE, linewidth=1.8, label='logistic fit')
        axis.legend(loc='best')
    axis.set(title=f'{title} (n = {len(scores)})', xlabel=f'score ({better(lower_better[0])})',
             ylabel=f'MOS ({better(lower_better[1])})')
    lines = [f'{name}\n{value:.3f} [{low:.3f}, {high:.3f}]' if np.isfinite(value) else f'{name}\nnone'
             for name, (value, low, high) in values.items()]
    axis.text(1.02, 1, '\n\n'.join(lines), transform=axis.transAxes, va='top', fontsize=8.5)
    return figure


@styled
def comparison_bars(rows: Sequence[Mapping[str, Any]], measure: str, title: str) -> 'Figure':
    """Draw a measure of every metric on every data set, one panel per data set, with its interval.

    Args:
        rows: dataset, metric, and the measure with its ends `_low` and `_high`.
        measure: its column.
        title: its name.
    """
    datasets, metrics = (list(dict.fromkeys(row[key] for row in rows)) for key in ('dataset', 'metric'))
    figure, axes = panels(len(datasets), 4.2, 1.1 + 0.34 * len(metrics))
    for axis, dataset in zip(axes, datasets, strict=True):
        for position, row in enumerate(row for row in rows if row['dataset'] == dataset):
            if np.isfinite(row[measure]):
                ends = [[row[measure] - row[f'{measure}_low']], [row[f'{measure}_high'] - row[measure]]]
                axis.errorbar(row[measure], position, xerr=np.maximum(ends, 0), fmt='o', color=BLUE, capsize=3, markersize=5)
            else:
                axis.text(0.02, position, 'none', color=GRAY, va='center')
        lowest = min((row[f'{measure}_low'] for row in rows if np.isfinite(row[f'{measure}_low'])), default=0)
        axis.set(xlim=(min(0, lowest * 1.1), 1), ylim=(len(metrics) - 0.5, -0.5), title=dataset, xlabel=title)
        axis.set_yticks(range(len(metrics)), metrics)
        axis.locator_params(axis='x', nbins=5)
        axis.grid(axis='y', visible=False)
    return figure


@styled
def histogram(values: np.ndarray, xlabel: str, ylabel: str, marks: Mapping[str, np.ndarray] | None = None) -> 'Figure':
    """Draw the distribution of values as bars, and others as lines over it.

    Args:
        values: (n,), drawn as bars.
        xlabel: of the values.
        ylabel: of the counts.
        marks: further values by name, scaled to the same area.
    """
    figure = empty_figure(5.6, 3.4)
    axis = figure.subplots()
    everything = np.concatenate([values, *(marks or {}).values()])
    edges = np.histogram_bin_edges(everything, bins=min(30, max(5, len(values) // 4)))
    axis.hist(values, edges, color=BLUE, alpha=0.75, label=ylabel)
    for (name, other), colour in zip((marks or {}).items(), SERIES[1:], strict=False):
        weights = np.full(len(other), len(values) / max(1, len(other)))
        axis.hist(other, edges, weights=weights, histtype='step', color=colour, linewidth=1.6, label=name)
    if marks:
        axis.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure


@styled
def picture_sheet(items: Sequence[tuple[np.ndarray, str, str]], title: str) -> 'Figure':
    """Draw pictures with a heading over each and a text under it.

    Args:
        items: (uint8 (H, W, 3), heading, text) of each picture; texts may be empty.
        title: heading of the sheet.
    """
    with_text = any(text for _, _, text in items)
    figure, axes = panels(len(items), 3.6 if with_text else 3, 4.4 if with_text else 2.5)
    figure.get_layout_engine().set(hspace=0.12 if with_text else 0.02)
    for axis, (picture, heading, text) in zip(axes, items, strict=True):
        axis.imshow(picture)
        axis.set_title(heading)
        axis.set_xlabel(textwrap.fill(text, TEXT_WIDTH), fontsize=8, color=INK)
        without_ticks(axis)
    figure.suptitle(title)
    return figure


@dataclass(frozen=True)
class SheetPicture:
    """A picture of a sheet.

    Attributes:
        pixels: uint8 (H, W, 3).
        score: of it.
        text: what else is known about it, a line or two.
    """

    pixels: np.ndarray
    score: float
    text: str = ''


@styled
def score_sheet(items: Sequence[SheetPicture], title: str, remark: str, span: tuple[float, float],
                lower_better: bool) -> 'Figure':
    """Draw pictures with their scores as numbers and as bars, for people who want to see what the scores mean.

    Args:
        items: in the order in which they are shown.
        title: of the sheet.
        remark: below it.
        span: range of the scores.
        lower_better: whether low scores mean good quality; the colour shows the quality, the length of the bar the score.
    """
    from matplotlib.colors import LinearSegmentedColormap
    quality = LinearSegmentedColormap.from_list('quality', (ORANGE, '#c9b458', BLUE))
    figure, axes = panels(len(items), 3.0, 2.85, columns=5)
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.07)
    for axis, item in zip(axes, items, strict=True):
        axis.imshow(item.pixels, interpolation='lanczos')
        without_ticks(axis)
        filled = float(np.clip((item.score - span[0]) / (span[1] - span[0]), 0, 1))
        colour = quality(1 - filled if lower_better else filled)
        for length, ink in ((1.0, '#e4e6e8'), (filled, colour)):
            axis.plot([0, length], [-0.045] * 2, color=ink, linewidth=5, solid_capstyle='butt', clip_on=False,
                      transform=axis.transAxes, scalex=False, scaley=False)
        axis.text(0, -0.09, f'{item.score:.2f}', transform=axis.transAxes, va='top', fontsize=17, fontweight='bold',
                  color=colour)
        axis.text(1, -0.105, item.text, transform=axis.transAxes, va='top', ha='right', fontsize=8.5, linespacing=1.35)
    figure.suptitle(title, x=0.008, ha='left', fontsize=14, fontweight='bold')
    figure.supxlabel(remark, x=0.008, ha='left', fontsize=9, color=GRAY)
    return figure


def spread_over_scores(scores: np.ndarray, count: int, kinds: Sequence[Sequence[str]] | None = None) -> np.ndarray:
    """Return positions of `count` pictures whose scores are spread evenly, from the lowest to the highest.

    Args:
        scores: (n,).
        count: how many, at most n.
        kinds: what each picture has in common with others; of the pictures with nearly the wanted score, the one whose kinds
            were chosen least is taken.
    """
    targets = np.linspace(scores.min(), scores.max(), count)
    near = (targets[-1] - targets[0]) / max(1, count - 1) / 2
    chosen: list[int] = []
    taken: Counter[str] = Counter()
    for target in targets:
        distances = np.abs(scores - target)
        distances[chosen] = np.inf
        best = int(distances.argmin())
        if kinds is not None and target not in (targets[0], targets[-1]):
            best = min((int(each) for each in np.flatnonzero(distances <= max(near, distances[best]))),
                       key=lambda each: (sum(taken[kind] for kind in kinds[each]), distances[each]))
        chosen.append(best)
        taken.update(kinds[best] if kinds is not None else ())
    return np.array(sorted(chosen, key=lambda position: scores[position]))
