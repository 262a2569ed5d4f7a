"""The figures of the analyses: one for each kind, written as PNG."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.figures.style import (
    BLUE,
    GRAY,
    ORANGE,
    PALETTE,
    SERIES,
    bars,
    logarithmic,
    panels,
    save_png,
    scatter,
    styled,
    without_ticks,
)


@styled
def draw_attention(shares: np.ndarray, parts: Sequence[str], out: Path, title: str) -> None:
    """Draw the parts' shares of the attention over the layers, stacked.

    Args:
        shares: (images, layers, parts).
        parts: their names.
        out: the PNG.
        title: of the picture.
    """
    figure, (axis,) = panels(1, 6.4, 3.8)
    mean, layers = shares.mean(axis=0), np.arange(1, shares.shape[1] + 1)
    axis.stackplot(layers, mean.T, labels=parts, colors=(*SERIES[:3], GRAY), alpha=0.85)
    axis.set(xlim=(layers[0], max(layers[-1], layers[0] + 1)), ylim=(0, 1), xlabel='layer of the language model',
             ylabel='share of attention')
    axis.set_xticks(layers if len(layers) < 16 else layers[::4])
    axis.set_title(title)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], loc='center left', bbox_to_anchor=(1.01, 0.5))
    save_png(figure, out)


@styled
def draw_conditions(ratings: Mapping[str, np.ndarray], mos: np.ndarray, rows: Sequence[Mapping[str, Any]], out: Path,
                    rating_range: Sequence[float]) -> None:
    """Draw ratings against MOS, one panel for each condition of the reasoning.

    Args:
        ratings: (n,) of each condition.
        mos: (n,) on the rating scale.
        rows: of the table, one for each condition.
        out: the PNG.
        rating_range: of ratings and MOS.
    """
    figure, axes = panels(len(ratings), 3.1, 3.6)
    for axis, (condition, values), row in zip(axes, ratings.items(), rows, strict=True):
        scatter(axis, mos, values, rating_range)
        axis.set(xlabel='MOS', ylabel='rating',
                 title=f'reasoning {condition}\nPLCC {row["plcc_mos"]:.3f}  SRCC {row["srcc_mos"]:.3f}')
    save_png(figure, out)


@styled
def draw_spaces(points: Mapping[str, np.ndarray], datasets: Sequence[str], rows: Sequence[Mapping[str, Any]], out: Path,
                method: str) -> None:
    """Draw the data sets in the plane, one panel for each feature space.

    Args:
        points: (n, 2) of each space.
        datasets: (n,) names.
        rows: of the table of distances.
        out: the PNG.
        method: how the points were projected into the plane.
    """
    figure, axes = panels(len(points), 4, 4.1)
    of = np.array(datasets)
    for axis, (space, values) in zip(axes, points.items(), strict=True):
        for colour, name in zip(PALETTE * len(of), dict.fromkeys(datasets), strict=False):
            axis.scatter(*values[of == name].T, s=10, color=colour, alpha=0.55, linewidths=0, label=name)
        own = [row for row in rows if row['space'] == space]
        axis.set_title(f'{space}\nMMD² {np.mean([row["mmd2"] for row in own]):.3f}   linear accuracy '
                       f'{np.mean([row["accuracy"] for row in own]):.2f}')
        without_ticks(axis)
    axes[0].legend(markerscale=1.6)
    pairs = len({(row['first'], row['second']) for row in rows})
    figure.suptitle(f'{method} of each space' + (f'; figures are means over {pairs} pairs of sets' if pairs > 1 else ''))
    save_png(figure, out)


@styled
def draw_agreement(scores: Mapping[str, Mapping[str, np.ndarray]], rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw the scores of each pair of models against each other, a panel for each data set and pair.

    Args:
        scores: by data set and model, (n,) each.
        rows: of the table.
        out: the PNG.
    """
    pairs = [row for row in rows if row['plcc_difference'] != '']
    figure, axes = panels(len(pairs), 3.4, 3.9)
    for axis, row in zip(axes, pairs, strict=True):
        first, second = (scores[row['dataset']][row[which]] for which in ('first', 'second'))
        both = np.concatenate([first, second])
        scatter(axis, first, second, (both.min(), both.max()))
        axis.set(xlabel=row['first'], ylabel=row['second'],
                 title=f'{row["dataset"]} (n = {row["images"]})\nPLCC {row["plcc"]:.3f}  SRCC {row["srcc"]:.3f}')
    save_png(figure, out)


@styled
def draw_costs(rows: Sequence[Mapping[str, Any]], costs: Mapping[str, str], out: Path) -> None:
    """Draw each cost as bars on a logarithmic axis, one panel per cost; the last metric in another colour.

    Args:
        rows: one per metric.
        costs: what to draw, and its label.
        out: the PNG.
    """
    figure, axes = panels(len(costs), 3.4, 0.5 * len(rows) + 1.2)
    for number, (axis, (cost, label)) in enumerate(zip(axes, costs.items(), strict=True)):
        values = {row['metric']: row[cost] for row in rows}
        texts = [f'{value:,.3g}' if value < 1000 else f'{value:,.0f}' for value in values.values()]
        bars(axis, values, texts, [BLUE] * (len(rows) - 1) + [ORANGE])
        logarithmic(axis, 'x')
        axis.set_xlim(10 ** np.floor(np.log10(min(values.values())) - 0.3), max(values.values()) * 12)
        axis.set_title(label)
        axis.tick_params(labelleft=number == 0)
    save_png(figure, out)


@styled
def draw_levels(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw for each type of distortion how many pairs of levels each metric orders rightly, one panel for each section.

    Args:
        rows: with `section`, `metric`, `type` and `level_order`.
        out: the PNG.
    """
    sections, metrics = (list(dict.fromkeys(row[name] for row in rows)) for name in ('section', 'metric'))
    longest = max(len({row['type'] for row in rows if row['section'] == section}) for section in sections)
    figure, axes = panels(len(sections), 5.2, 0.2 * longest + 1.2, columns=len(sections))
    for axis, section in zip(axes, sections, strict=True):
        types = list(dict.fromkeys(row['type'] for row in rows if row['section'] == section))
        for metric, colour in zip(metrics, itertools.cycle(SERIES)):
            found = {row['type']: row['level_order'] for row in rows if (row['section'], row['metric']) == (section, metric)}
            axis.scatter([found[kind] for kind in types], range(len(types)), s=22, color=colour, label=metric, alpha=0.85)
        axis.set_yticks(range(len(types)), types)
        axis.set_ylim(len(types) - 0.4, -0.6)
        axis.set(title=section, xlabel='pairs of levels in order')
    axes[0].legend(loc='lower left')
    save_png(figure, out)
